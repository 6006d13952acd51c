"""Peers that misbehave, against the real front and engine: nobody else notices, and their slots come back.

ENGINEWRIGHT_SLOW=1 makes 10,000 cycles of 500.
"""

from __future__ import annotations

import os
import random
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from enginewright_client import InvalidRequest, RequestError, SamplingParams, TritonClient
from enginewright_serve import HealthPolicy, Supervisor, SupervisorPolicy, TritonServer
from runtime.conftest import eventually, metric
from runtime.raw_requests import stream_request
from runtime.resources import is_flat, resources_of
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

SLOW = os.environ.get("ENGINEWRIGHT_SLOW") == "1"
GREEDY = SamplingParams(max_tokens=16, temperature=0.0)
LONG = SamplingParams(max_tokens=4000, min_tokens=4000, temperature=0.0)
QUICK = HealthPolicy(probe_seconds=5.0, silence_seconds=10.0)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
ACTIVE, WAITING = "enginewright_requests_active", "enginewright_requests_waiting"


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Let this process, and what it starts meanwhile, open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[TritonServer]:
    """Started where few descriptors are allowed, as on many systems: it raises that itself."""
    server = TritonServer(tiny_repository)
    with descriptors(512):
        server.start()
    with ExitStack() as end:
        end.callback(server.stop)
        yield server


@pytest.fixture
def client(server: TritonServer) -> Iterator[TritonClient]:
    with TritonClient(server.grpc_address, timeout=120) as client:
        yield client


def is_idle(server: TritonServer) -> bool:
    return metric(server, ACTIVE) + metric(server, WAITING) == 0


def test_who_does_not_read_holds_up_nobody(server: TritonServer, client: TritonClient) -> None:
    """Four streams on four slots, a window of 64 KB each, and nobody reads them until all are made.

    Not cancelled, but read in the end: Triton 2.51 never forgets a stream that was cancelled with responses
    unread, and waits for it when it stops.
    """
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
    channels = [grpc.insecure_channel(server.grpc_address, options) for _ in range(4)]
    calls = [
        GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([stream_request("a", 3000)]))
        for channel in channels
    ]
    for call in calls:
        next(call)
    assert client.generate("Hello", GREEDY).usage.output_tokens
    eventually(lambda: is_idle(server), "the engine waits for a reader")
    for call, channel in zip(calls, channels, strict=True):
        *_, last = call
        assert last.infer_response.parameters["triton_final_response"].bool_param
        channel.close()


def test_a_thousand_idle_connections_hinder_nobody(server: TritonServer, client: TritonClient) -> None:
    """HTTP/2 is spoken on each. They cost the server a descriptor each, and no thread."""
    host, _, port = server.grpc_address.rpartition(":")

    def ask(number: int) -> str:
        return client.generate(f"Hello {number}", GREEDY).text

    with ThreadPoolExecutor(8) as threads, ExitStack() as connections:
        expected = list(threads.map(ask, range(16)))
        before = resources_of(server)
        connections.enter_context(descriptors(4096))
        for _ in range(1000):
            connection = connections.enter_context(socket.create_connection((host, int(port)), timeout=30))
            connection.sendall(PREFACE + SETTINGS)
            assert connection.recv(1)
        assert list(threads.map(ask, range(16))) == expected
        during = resources_of(server)
        assert during.descriptors >= before.descriptors + 1000
        assert during.threads <= before.threads + 16
    eventually(lambda: resources_of(server).descriptors <= before.descriptors + 8, "descriptors stayed open")


def test_bytes_that_are_no_protocol_are_dropped(server: TritonServer, client: TritonClient) -> None:
    host, _, port = server.grpc_address.rpartition(":")
    generator = random.Random(1)
    for start in (b"", PREFACE, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(start + generator.randbytes(20_000))
    assert client.generate("Hello", GREEDY).usage.output_tokens


def test_a_tensor_that_is_cut_off_is_refused(server: TritonServer, client: TritonClient) -> None:
    for content in (b"", b"\1", struct.pack("<I", 100) + b"short", struct.pack("<I", 2**32 - 1) + b"x"):
        request = stream_request("a", 4)
        request.raw_input_contents[0] = content
        with grpc.insecure_channel(server.grpc_address) as channel:
            [answer] = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request]), timeout=30)
            assert answer.error_message
    assert client.generate("Hello", GREEDY).usage.output_tokens


def test_prompts_of_100_mb_leave_no_memory_behind(server: TritonServer, client: TritonClient) -> None:
    client.generate("Hello", GREEDY)
    before = resources_of(server)
    request = stream_request("x" * 100_000_000, 4)
    for _ in range(3):
        with grpc.insecure_channel(server.grpc_address, [("grpc.max_send_message_length", -1)]) as channel:
            [answer] = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request]), timeout=120)
            assert "text_input has 100000000 bytes" in answer.error_message
    limit = before.private_mib + 40
    eventually(lambda: resources_of(server).private_mib < limit, "Triton keeps the messages")
    assert client.generate("Hello", GREEDY).usage.output_tokens


def test_starting_and_cancelling_loses_no_slot_and_no_memory(
    tiny_repository: Path, record_property: Callable[[str, object], None]
) -> None:
    """Triton 2.51 locks up when a stream is reset while a response is written; the client resets none that it
    leaves. One restart in 10,000 cycles is still allowed, for what else may befall it."""
    cycles = 10_000 if SLOW else 500
    restarts: list[str] = []
    with TritonServer(tiny_repository) as server, ThreadPoolExecutor(9) as threads:
        supervisor = Supervisor(server, restarts.append, SupervisorPolicy(health=QUICK))
        supervising = threads.submit(supervisor.run)
        try:
            run_cycles(threads, server, cycles // 5)  # everything is allocated once
            life, before = server.pid, resources_of(server)
            run_cycles(threads, server, cycles)
            eventually(lambda: is_idle(server), "a slot stayed taken")
            with TritonClient(server.grpc_address, timeout=60) as client:
                assert client.generate("Hello", GREEDY).usage.output_tokens
            record_property("restarts", restarts)
            print(f"{cycles} cycles, restarts: {restarts}, {before} -> {resources_of(server)}")
            assert len(restarts) <= cycles // 10_000, restarts
            if server.pid == life:
                eventually(lambda: is_flat(before, resources_of(server)), "it grew")
                few = before.descriptors + 8
                eventually(lambda: resources_of(server).descriptors <= few, "descriptors stayed open")
        finally:
            supervisor.stop()
            supervising.result()


def run_cycles(threads: ThreadPoolExecutor, server: TritonServer, cycles: int) -> None:
    """`cycles` streams in all, from 8 clients; each is left after none, one or a few tokens."""

    def cycle(number: int) -> None:
        generator = random.Random(number)
        with TritonClient(server.grpc_address, timeout=60) as client:
            for _ in range(cycles // 8):
                try:
                    with client.stream("a", LONG) as answer:
                        for _ in range(generator.randrange(3)):
                            next(answer)
                except InvalidRequest:
                    raise
                except RequestError:  # a restart; it is counted
                    eventually(lambda: client.health().generates, "it never came back")

    list(threads.map(cycle, range(8)))
