"""Timeouts and retries, by both clients: what is tried again, how often, and what it costs at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from enginewright_client import (
    AsyncTritonClient,
    ConnectError,
    EngineError,
    InvalidRequest,
    Keepalive,
    MockRequest,
    MockTransport,
    RequestCancelled,
    RequestError,
    RequestTimeout,
    Retry,
    ServerOverloaded,
    Timeout,
    TransportError,
    TritonClient,
)
from enginewright_serve import TritonServer
from hypothesis import given
from hypothesis import strategies as st
from runtime.conftest import eventually

QUICK = Retry(attempts=4, backoff=0.001, max_backoff=0.002)
FULL = ServerOverloaded("256 requests wait", code="queue-full", hint="try later")


def ask_sync(transport: Any, **settings: Any) -> str:
    with TritonClient(transport=transport, **settings) as client:
        return client.generate("a").text


def ask_async(transport: Any, **settings: Any) -> str:
    async def ask() -> str:
        async with AsyncTritonClient(transport=transport, **settings) as client:
            return (await client.generate("a")).text

    return asyncio.run(ask())


@pytest.fixture(params=[ask_sync, ask_async])
def ask(request: pytest.FixtureRequest) -> Callable[..., str]:
    chosen: Callable[..., str] = request.param
    return chosen


class Failing:
    """A handler whose first answers fail."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.ids: list[str] = []

    def __call__(self, request: MockRequest) -> Iterator[str]:
        self.ids.append(request.request_id)
        if self.failures:
            raise self.failures.pop(0)
        yield "done"


LOST = TransportError("UNAVAILABLE", "Socket closed")
BUSY = TransportError("UNAVAILABLE", "the server is shutting down")


@pytest.mark.parametrize("failure", [LOST, BUSY, FULL])
def test_a_server_that_is_away_or_busy_is_asked_again(ask: Callable[..., str], failure: Exception) -> None:
    handler = Failing(failure, failure, failure)
    assert ask(MockTransport(handler), retry=QUICK) == "done"
    assert len(handler.ids) == 4
    assert len(set(handler.ids)) == 1, "a repetition has the id of its request"


def test_attempts_are_counted(ask: Callable[..., str]) -> None:
    handler = Failing(*[FULL] * 4)
    with pytest.raises(ServerOverloaded):
        ask(MockTransport(handler), retry=QUICK)
    assert len(handler.ids) == 4


@pytest.mark.parametrize(
    "failure",
    [
        EngineError("out of memory", code="engine-failed"),
        InvalidRequest("top_k is -1", code="invalid-request"),
        RequestTimeout("it ran 60 s", code="request-time-limit"),
        RequestCancelled("it was cancelled", code="cancelled"),
        TransportError("CANCELLED"),
        TransportError("INTERNAL", "a bug"),
        TransportError("UNAVAILABLE", "This protocol is restricted, expecting header 'x'"),
        TransportError("UNAVAILABLE", "failed to connect to all addresses: certificate has expired"),
    ],
)
def test_what_would_fail_again_is_not_repeated(ask: Callable[..., str], failure: Exception) -> None:
    handler = Failing(failure)
    with pytest.raises(RequestError):
        ask(MockTransport(handler), retry=QUICK)
    assert len(handler.ids) == 1


def test_without_retry_a_failure_is_raised_at_once(ask: Callable[..., str]) -> None:
    handler = Failing(FULL)
    with pytest.raises(ServerOverloaded, match="256 requests wait") as caught:
        ask(MockTransport(handler))
    assert (caught.value.hint, len(handler.ids)) == ("try later", 1)


@pytest.mark.parametrize("failure", [LOST, FULL])
def test_nothing_is_repeated_after_the_first_token(ask: Callable[..., str], failure: Exception) -> None:
    asked = []

    def handler(request: MockRequest) -> Iterator[str]:
        asked.append(request)
        yield "a"
        raise failure

    with pytest.raises((ConnectError, ServerOverloaded)):
        ask(MockTransport(handler), retry=QUICK)
    assert len(asked) == 1


def test_the_model_is_asked_for_again_with_the_request(ask: Callable[..., str]) -> None:
    """A connection that was lost may lead to another server: its configuration is read anew."""
    configs = 0

    class Flaky(MockTransport):
        def unary(self, method: str, request: Any, timeout: float | None) -> Any:
            nonlocal configs
            configs += method == "ModelConfig"
            if configs == 1:
                raise LOST
            return super().unary(method, request, timeout)

    handler = Failing(LOST)
    assert ask(Flaky(handler), retry=QUICK) == "done"
    assert (configs, len(handler.ids)) == (3, 2)


def test_no_pause_outlasts_the_timeout(ask: Callable[..., str]) -> None:
    handler = Failing(FULL)
    start = time.monotonic()
    with pytest.raises(ServerOverloaded):
        ask(MockTransport(handler), retry=Retry(attempts=9, backoff=3600, max_backoff=3600), timeout=50)
    assert time.monotonic() - start < 50
    assert len(handler.ids) == 1


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.001, 10), st.floats(0.001, 100), st.floats(0, 1))
def test_a_pause_grows_is_capped_and_jittered(
    failures: int, chance: float, backoff: float, most: float, jitter: float
) -> None:
    retry = Retry(backoff=backoff, max_backoff=most, jitter=jitter)
    full = retry.pause(failures, 0.0)
    assert full <= most
    assert full == pytest.approx(min(most, backoff * 2 ** min(failures - 1, 60)))
    assert full * (1 - jitter) - 1e-9 <= retry.pause(failures, chance) <= full


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Timeout(total=0), "timeout.total"),
        (lambda: Timeout(first_token=-1), "timeout.first_token"),
        (lambda: Timeout(connect=True), "timeout.connect"),
        (lambda: TritonClient(timeout=0), "timeout.total"),
        (lambda: Retry(attempts=0), "retry.attempts"),
        (lambda: Retry(jitter=2), "retry.jitter"),
        (lambda: Retry(backoff=0), "retry.backoff"),
        (lambda: Keepalive(interval=0), "keepalive.interval"),
    ],
)
def test_a_setting_that_cannot_be_is_named(make: Callable[[], object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert caught.value.field == field


SLOW_START = "wait 60000"
SLOW_END = "count 100000 5"


@pytest.mark.parametrize(
    ("timeout", "prompt", "code", "message"),
    [
        (Timeout(first_token=0.2), SLOW_START, "first-token-timeout", "no first token .* within 0.2 s"),
        (Timeout(first_token=0.2, total=30), SLOW_START, "first-token-timeout", "first token"),
        (Timeout(first_token=30, total=0.2), SLOW_START, "timeout", "no complete answer .* within 0.2 s"),
        (Timeout(first_token=30, total=0.2), SLOW_END, "timeout", "complete answer"),
        (0.2, SLOW_END, "timeout", "complete answer"),
    ],
)
def test_a_limit_that_is_over_frees_the_slot(
    fake_server: TritonServer, timeout: Timeout | float, prompt: str, code: str, message: str
) -> None:
    async def ask_async() -> None:
        async with AsyncTritonClient(fake_server.grpc_address) as client:
            await client.generate(prompt, timeout=timeout)

    with TritonClient(fake_server.grpc_address) as client:
        before = _cancelled(client)
        for ask in (lambda: client.generate(prompt, timeout=timeout), lambda: asyncio.run(ask_async())):
            with pytest.raises(RequestTimeout, match=message) as caught:
                ask()
            assert caught.value.code == code
        eventually(lambda: _cancelled(client) == before + 2, "the requests ran on")


@pytest.mark.parametrize("seconds", [1e10, 1e300, float("inf")])
def test_a_limit_beyond_every_clock_is_none(fake_server: TritonServer, seconds: float) -> None:
    limit = Timeout(first_token=seconds, total=seconds)
    with TritonClient(fake_server.grpc_address, timeout=limit) as client:
        assert client.generate("a b").text == "a b "


def test_an_answer_that_begins_in_time_may_take_longer(fake_server: TritonServer) -> None:
    timeout = Timeout(first_token=10)
    with TritonClient(fake_server.grpc_address, timeout=timeout) as client:
        assert client.generate("count 3 100").usage is not None


def _cancelled(client: TritonClient) -> int:
    return int(client.generate("report").text.split("cancelled=")[1])
