"""However a caller gives up, the engine is free within a second, by the front's own clock.

`enginewright_cancellation_seconds` is measured in the front, from the last look at which the caller was there
to the engine's last word on the request. It does not depend on when this test looks.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from enginewright_client import AsyncTritonClient, RequestTimeout, SamplingParams, Timeout, TritonClient
from enginewright_serve import TritonServer, command_line
from runtime.conftest import eventually, metric

LONG = SamplingParams(max_tokens=4000, min_tokens=4000, temperature=0.0)
FREED = "enginewright_cancellation_seconds"


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[TritonServer]:
    with TritonServer(tiny_repository) as server:
        yield server


def leave_the_loop(address: str) -> None:
    with TritonClient(address) as client, client.stream("a", LONG) as answer:
        for _ in answer:
            break


def close_the_answer(address: str) -> None:
    with TritonClient(address) as client:
        answer = client.stream("a", LONG)
        next(answer)
        answer.close()


def close_the_client(address: str) -> None:
    client = TritonClient(address)
    next(client.stream("a", LONG))
    client.close()


def run_out_of_time(address: str) -> None:
    with TritonClient(address) as client:
        limit = Timeout(total=part_of_an_answer(client))
        with pytest.raises(RequestTimeout):
            list(client.stream("a", LONG, timeout=limit))


def cancel_the_task(address: str) -> None:
    async def give_up() -> None:
        async with AsyncTritonClient(address) as client:
            started = asyncio.Event()

            async def read() -> None:
                async for _ in client.stream("a", LONG):
                    started.set()

            task = asyncio.create_task(read())
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(give_up())


def kill_the_client(address: str) -> None:
    with streaming_client(address) as process:
        process.kill()


@pytest.mark.parametrize(
    "give_up",
    [
        leave_the_loop,
        close_the_answer,
        close_the_client,
        run_out_of_time,
        cancel_the_task,
        kill_the_client,
    ],
)
def test_a_caller_who_gives_up_frees_the_engine_within_a_second(
    give_up: Callable[[str], None], server: TritonServer
) -> None:
    before = metric(server, f"{FREED}_count")
    give_up(server.grpc_address)
    frees(server, before + 1)


def test_streams_that_wait_for_a_slot_are_given_up_as_well(server: TritonServer) -> None:
    """Two beside four that hold all slots."""
    before = metric(server, f"{FREED}_count")
    with TritonClient(server.grpc_address) as client:
        answers = [client.stream("a", LONG) for _ in range(4)]
        for answer in answers:
            next(answer)
        answers += [client.stream("a", LONG) for _ in range(2)]
        eventually(lambda: metric(server, "enginewright_requests_waiting") == 2, "two should wait")
        for answer in answers:
            answer.close()
    frees(server, before + 6)


def test_a_deadline_counts_the_time_in_the_queue(server: TritonServer) -> None:
    before = metric(server, f"{FREED}_count")
    with TritonClient(server.grpc_address) as client:
        limit = Timeout(total=part_of_an_answer(client))
        answers = [client.stream("a", LONG) for _ in range(4)]
        for answer in answers:
            next(answer)
        with pytest.raises(RequestTimeout, match="no complete answer"):
            client.generate("a", LONG, timeout=limit)
        for answer in answers:
            answer.close()
    frees(server, before + 5)


def test_a_peer_that_falls_silent_is_given_up(tiny_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped, not killed: its machine still acknowledges TCP, as a proxy before a dead peer does. The
    server's keepalive of 30 + 10 seconds is made 1 + 1."""
    monkeypatch.setattr(command_line, "_KEEPALIVE_MS", 1000)
    monkeypatch.setattr(command_line, "_KEEPALIVE_TIMEOUT_MS", 1000)
    with TritonServer(tiny_repository) as server, streaming_client(server.grpc_address) as process:
        process.send_signal(signal.SIGSTOP)
        frees(server, 1)
        process.kill()
        # Triton 2.51 never forgets a stream that was cancelled with responses unread, and would wait for it.
        server.stop(kill=True)


def part_of_an_answer(client: TritonClient) -> float:
    """Seconds that a quarter of a long answer takes, on this machine at this moment."""
    started = time.monotonic()
    client.generate("a", SamplingParams(max_tokens=200, min_tokens=200, temperature=0.0))
    return 5 * (time.monotonic() - started)


def frees(server: TritonServer, count: int) -> None:
    """So many requests were given up in all, none later than a second, and no slot is taken."""
    eventually(lambda: metric(server, f"{FREED}_count") >= count, "a slot stayed taken")
    eventually(lambda: metric(server, "enginewright_requests_active") == 0, "the engine still works")
    assert metric(server, "enginewright_requests_waiting") == 0
    assert metric(server, f"{FREED}_count") == count
    assert metric(server, f'{FREED}_bucket{{le="1"}}') == count


@contextmanager
def streaming_client(address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that has read the first token of an answer, and reads no more."""
    program = (
        "import signal, sys; from enginewright_client import *\n"
        "client = TritonClient(sys.argv[1])\n"
        "answer = client.stream('a', SamplingParams(max_tokens=4000, min_tokens=4000))\n"
        "next(answer); print('streaming', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program, address], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"streaming\n"
        yield process
