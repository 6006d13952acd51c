"""Answers that are left: the model ends them at once, and Triton, which locks up on resets, lives."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from enginewright_client import AsyncTritonClient, SamplingParams, TritonClient, _leaving
from enginewright_client._leaving import AsyncLeaving, Leaving
from enginewright_client._transport import TransportError
from enginewright_serve import TritonServer
from runtime.conftest import eventually, metric

LONG = SamplingParams(max_tokens=4000, min_tokens=4000, temperature=0.0)


@pytest.fixture(scope="module")
def fragile_server(tiny_repository: Path) -> Iterator[TritonServer]:
    """The real front behind a Triton that takes 2 ms for what must not be interrupted, by a variable of its
    own for debugging: a dozen streams that are reset lock it up for ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITONSERVER_DELAY_GRPC_RESPONSE", "2")
        server = TritonServer(tiny_repository)
        server.start()
    yield server
    server.stop(kill=True)


def serves(server: TritonServer) -> bool:
    with TritonClient(server.grpc_address, timeout=60) as client:
        return client.generate("a", SamplingParams(max_tokens=2)).usage is not None


def test_streams_that_are_left_do_not_lock_the_server_up(fragile_server: TritonServer) -> None:
    def leave(number: int) -> None:
        with client.stream("a", LONG) as answer:
            for _ in range(number % 4):
                next(answer)

    with TritonClient(fragile_server.grpc_address, timeout=60) as client, ThreadPoolExecutor(4) as threads:
        list(threads.map(leave, range(60)))
        assert serves(fragile_server)
    assert not fragile_server.trouble(0)


def test_tasks_that_are_cancelled_do_not_lock_the_server_up(fragile_server: TritonServer) -> None:
    async def leave(client: AsyncTritonClient, number: int) -> None:
        async with client.stream("a", LONG) as answer:
            begun = asyncio.Event()

            async def read() -> None:
                async for _ in answer:
                    begun.set()

            task = asyncio.ensure_future(read())
            if number % 4:
                await begun.wait()
            task.cancel()
            await asyncio.wait({task})

    async def main() -> None:
        async with AsyncTritonClient(fragile_server.grpc_address, timeout=60) as client:
            for start in range(0, 60, 4):
                await asyncio.gather(*(leave(client, start + number) for number in range(4)))

    asyncio.run(main())
    assert serves(fragile_server)
    assert not fragile_server.trouble(0)


def test_another_request_of_the_same_id_goes_on(client: TritonClient) -> None:
    left, read = (client.stream("count 5 100", request_id="same") for _ in range(2))
    next(left)
    left.close()
    assert "".join(delta.text for delta in read) == "0 1 2 3 4 "


def test_through_a_native_ensemble_an_answer_that_is_left_ends_too(fragile_server: TritonServer) -> None:
    """Triton does not pass on to the model behind it that a stream was reset: it went on to its end."""
    cancelled = 'enginewright_requests_total{outcome="cancelled"'
    before = metric(fragile_server, cancelled)
    with TritonClient(fragile_server.grpc_address, model="ensemble", timeout=60) as client:
        for _ in range(4):
            with client.stream("a", LONG) as answer:
                next(answer)
        eventually(lambda: metric(fragile_server, cancelled) == before + 4, "they ran on")


class Endless:
    """A call that brings nothing until it is reset."""

    def __init__(self) -> None:
        self.reset = threading.Event()

    def __next__(self) -> Any:
        assert self.reset.wait(60)
        raise TransportError("CANCELLED")

    async def __anext__(self) -> Any:
        while not self.reset.is_set():
            await asyncio.sleep(0.001)
        raise TransportError("CANCELLED")

    def cancel(self) -> None:
        self.reset.set()


class Answered:
    """A cancellation's call: over at once."""

    def __next__(self) -> Any:
        raise StopIteration

    async def __anext__(self) -> Any:
        raise StopAsyncIteration

    def cancel(self) -> None:
        pass


class Refused(Answered):
    def __next__(self) -> Any:
        raise TransportError("UNAVAILABLE")

    async def __anext__(self) -> Any:
        raise TransportError("UNAVAILABLE")


@pytest.mark.parametrize(("answer", "tries"), [(Answered, 2), (Refused, 1)])
def test_a_call_that_does_not_end_is_reset(
    answer: Callable[[], Answered], tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_leaving, "_PAUSES", (0.001, 0.001))
    call, asked = Endless(), []

    def ask(request: Any) -> Answered:
        asked.append(request)
        return answer()

    leaving = Leaving(ask)
    leaving.way_out(call, "end it")()
    eventually(call.reset.is_set, "it was given up and not reset")
    leaving.wait()
    assert asked == ["end it"] * tries

    async def main() -> bool:
        call, leaving = Endless(), AsyncLeaving(ask)
        leaving.way_out(call, "end it")()
        await leaving.wait()
        return call.reset.is_set()

    assert asyncio.run(main())
    assert asked == ["end it"] * 2 * tries


def test_a_model_that_takes_no_cancellation_gets_a_reset() -> None:
    call = Endless()
    Leaving(lambda request: Answered()).way_out(call, None)()
    assert call.reset.is_set()
