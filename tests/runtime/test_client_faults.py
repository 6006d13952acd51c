"""What happens around a client: servers that die, freeze or restart, clients that are killed or forked."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginewright_client import (
    AsyncTritonClient,
    ConnectError,
    Keepalive,
    RequestError,
    RequestTimeout,
    Retry,
    Timeout,
    TritonClient,
)
from enginewright_serve import TritonServer
from enginewright_serve.ports import choose_ports
from runtime.conftest import eventually

ENDLESS = "count 5000 5"
SLOT_SECONDS = 1.0


def running(client: TritonClient) -> int:
    return int(client.generate("report").text.split("running=")[1].split()[0])


@pytest.fixture
def own_server(fake_repository: Callable[..., Path]) -> Iterator[TritonServer]:
    """A server that a test may hurt."""
    with TritonServer(fake_repository()) as server:
        yield server
        server.stop(kill=True)


def test_a_client_that_is_killed_frees_its_slots(fake_server: TritonServer, client: TritonClient) -> None:
    program = (
        "import sys, time; from enginewright_client import TritonClient; client = TritonClient(sys.argv[1])\n"
        f"answers = [client.stream({ENDLESS!r}) for _ in range(8)]\n"
        "for answer in answers: next(answer)\n"
        "print('reading', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, fake_server.grpc_address]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        assert running(client) == 8
        process.kill()
        killed = time.monotonic()
        eventually(lambda: running(client) == 0, "its requests run on")
    assert time.monotonic() - killed < 10 * SLOT_SECONDS  # 0.05 s on an idle machine


@pytest.mark.parametrize("twin", [False, True])
def test_a_server_that_dies_in_the_middle_is_an_error_and_its_successor_is_found(
    fake_repository: Callable[..., Path], twin: bool
) -> None:
    ports = dict(zip(("grpc_port", "metrics_port"), choose_ports("", {"a": None, "b": None}), strict=True))
    address = f"127.0.0.1:{ports['grpc_port']}"
    first = TritonServer(fake_repository(), **ports)
    second = TritonServer(fake_repository(max_seq_len="4096"), **ports)

    def read(client: TritonClient) -> Iterator[str]:
        for delta in client.stream(ENDLESS):
            yield delta.text

    async def read_async() -> None:
        async with AsyncTritonClient(address) as client:
            assert (await client.model_config()).max_seq_len == 2048
            answer = client.stream(ENDLESS)
            assert (await answer.__anext__()).text
            first.stop(kill=True)
            with pytest.raises(ConnectError):
                async for _ in answer:
                    pass
            second.start()
            assert (await client.generate("back")).text == "back "
            assert (await client.model_config()).max_seq_len == 4096

    try:
        first.start()
        if twin:
            asyncio.run(read_async())
            return
        with TritonClient(address) as client:
            assert client.model_config().max_seq_len == 2048
            answer = read(client)
            assert next(answer)
            first.stop(kill=True)
            with pytest.raises(ConnectError):
                list(answer)
            second.start()
            assert client.generate("back").text == "back "
            assert client.model_config().max_seq_len == 4096
    finally:
        first.stop(kill=True)
        second.stop(kill=True)


def test_a_retrying_client_waits_out_a_restart(fake_repository: Callable[..., Path]) -> None:
    ports = dict(zip(("grpc_port", "metrics_port"), choose_ports("", {"a": None, "b": None}), strict=True))
    patient = Retry(attempts=1000, backoff=0.05, max_backoff=0.2)
    server = TritonServer(fake_repository(), **ports)
    program = (
        "import sys; from enginewright_client import Retry, TritonClient\n"
        f"client = TritonClient(sys.argv[1], retry={patient!r})\n"
        "print('asking', flush=True); print(client.generate('patience').text, flush=True)"
    )
    command = [sys.executable, "-c", program, f"127.0.0.1:{ports['grpc_port']}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        with server:
            assert process.stdout.readline() == "patience \n"
            server.stop(kill=True)


@pytest.mark.parametrize("twin", [False, True])
def test_a_server_that_freezes_is_noticed_by_keepalive(own_server: TritonServer, twin: bool) -> None:
    """Its connection stays up, as half open TCP does: nothing answers any more."""
    keepalive = Keepalive(interval=1.0, timeout=0.5)
    pid = own_server.pid
    assert pid is not None

    async def read_async() -> None:
        async with AsyncTritonClient(own_server.grpc_address, keepalive=keepalive) as client:
            answer = client.stream(ENDLESS)
            await answer.__anext__()
            os.kill(pid, signal.SIGSTOP)
            async for _ in answer:
                pass

    try:
        with pytest.raises(ConnectError):
            if twin:
                asyncio.run(read_async())
            with TritonClient(own_server.grpc_address, keepalive=keepalive) as client:
                answer = client.stream(ENDLESS)
                next(answer)
                os.kill(pid, signal.SIGSTOP)
                list(answer)
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("limit", [Timeout(connect=0.3), Timeout(connect=None, total=0.3)])
def test_an_address_that_swallows_packets_does_not_hold_a_call(limit: Timeout) -> None:
    """A listener whose queue is full drops connections without a word."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        waiting = []
        for _ in range(8):
            caller = socket.socket()
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
            waiting.append(caller)
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        start = time.monotonic()
        client = TritonClient(address, timeout=limit)
        with client, pytest.raises((ConnectError, RequestTimeout)):
            client.generate("a")
        for caller in waiting:
            caller.close()
    assert time.monotonic() - start < 15  # gRPC's own limit is 20


def _ask_in_child(client: TritonClient, answer: Any, results: Any) -> None:
    texts: list[str] = [client.generate("child").text]
    try:
        next(answer)
    except RequestError as error:
        texts.append(error.code)
    answer.close()
    client.close()
    results.put(texts)


def test_a_forked_child_connects_anew_and_leaves_the_parents_requests_alone(client: TritonClient) -> None:
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    with client.stream("count 400 5") as answer:
        assert next(answer).text == "0 "
        children = [fork.Process(target=_ask_in_child, args=(client, answer, results)) for _ in range(3)]
        for child in children:
            child.start()
        assert [results.get(timeout=60) for _ in children] == [["child ", "forked"]] * 3
        for child in children:
            child.join(60)
            assert child.exitcode == 0
        assert "".join(delta.text for delta in answer).endswith("398 399 ")
    assert client.generate("parent").text == "parent "


def test_a_client_made_before_a_fork_and_used_after_it_works(fake_server: TritonServer) -> None:
    program = (
        "import json, os, sys; from enginewright_client import TritonClient\n"
        "client = TritonClient(sys.argv[1]); child = os.fork()\n"
        "text = client.generate('who').text\n"
        "code = 0 if child == 0 else os.waitpid(child, 0)[1]\n"
        "if child == 0: os._exit(0 if text == 'who ' else 1)\n"
        "print(json.dumps([text, code]))"
    )
    output = subprocess.check_output([sys.executable, "-c", program, fake_server.grpc_address], timeout=60)
    assert json.loads(output) == ["who ", 0]


def test_hundreds_of_cancelled_requests_leave_nothing_behind(client: TritonClient) -> None:
    def cycle(count: int) -> None:
        for _ in range(count):
            answer = client.stream(ENDLESS)
            next(answer)
            answer.close()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def tasks() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    def settled() -> tuple[int, int]:
        """What is left is ended in the background."""
        eventually(lambda: running(client) == 0, "a request ran on")
        eventually(lambda: tasks() <= threads + 8, "threads stay")
        return resident(), descriptors()

    threads = tasks()
    cycle(300)
    memory, opened = settled()
    cycle(1000)
    now, still_open = settled()
    assert now - memory < 14 * 2**20  # 18 MiB when a call left 18 KiB behind
    assert still_open <= opened + 1
