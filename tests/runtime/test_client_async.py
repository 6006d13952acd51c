"""AsyncTritonClient against a real Triton: what it reads no further is cancelled, and no task is left."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from enginewright_client import (
    AsyncTritonClient,
    ConnectError,
    EngineError,
    InvalidRequest,
    ModelNotFound,
    RequestCancelled,
    RequestError,
    SamplingParams,
    ServerOverloaded,
    TritonClient,
)
from enginewright_serve import TritonServer
from enginewright_serve.ports import choose_ports
from runtime.conftest import eventually

ENDLESS = "count 100000 5"
Body = Callable[[AsyncTritonClient], Coroutine[Any, Any, Any]]


def run(server: TritonServer, body: Body) -> Any:
    """`await body(client)`; afterwards no task is left."""

    async def main() -> Any:
        async with AsyncTritonClient(server.grpc_address) as client:
            result = await body(client)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:  # gRPC's, which end with their call
            await asyncio.wait(left, timeout=10)
        assert not [task for task in left if not task.done()]
        return result

    return asyncio.run(main())


def cancelled(client: TritonClient) -> int:
    return int(client.generate("report").text.split("cancelled=")[1])


def test_the_twins_answer_alike(fake_server: TritonServer, client: TritonClient) -> None:
    async def body(twin: AsyncTritonClient) -> list[Any]:
        return [
            await twin.generate("one two", request_id="mine"),
            [delta async for delta in twin.stream("one two")],
            await twin.chat([{"role": "user", "content": "one two"}], request_id="mine"),
            [delta async for delta in twin.chat_stream([{"role": "user", "content": "one two"}])],
            await twin.health(),
            await twin.models(),
            await twin.model_config(),
        ]

    assert run(fake_server, body) == [
        client.generate("one two", request_id="mine"),
        list(client.stream("one two")),
        client.chat([{"role": "user", "content": "one two"}], request_id="mine"),
        list(client.chat_stream([{"role": "user", "content": "one two"}])),
        client.health(),
        client.models(),
        client.model_config(),
    ]


def test_the_twins_have_the_same_methods_and_arguments() -> None:
    for name in ("generate", "stream", "chat", "chat_stream", "models", "health", "metrics", "model_config"):
        ours, theirs = (inspect.signature(getattr(kind, name)) for kind in (TritonClient, AsyncTritonClient))
        assert ours.parameters == theirs.parameters, name
    ours, theirs = (inspect.signature(kind.__init__) for kind in (TritonClient, AsyncTritonClient))
    assert [*ours.parameters] == [*theirs.parameters]


def test_a_thousand_requests_share_one_connection(fake_server: TritonServer) -> None:
    async def body(client: AsyncTritonClient) -> list[str]:
        answers = await asyncio.gather(
            *(client.generate(f"count {number % 7} 300") for number in range(1000))
        )
        return [answer.text for answer in answers]

    texts = run(fake_server, body)
    assert texts == ["".join(f"{n} " for n in range(number % 7)) for number in range(1000)]


async def _leave(client: AsyncTritonClient) -> None:
    async for _ in client.stream(ENDLESS):
        break


async def _close(client: AsyncTritonClient) -> None:
    answer = client.stream(ENDLESS)
    await answer.__anext__()
    await answer.aclose()
    assert [delta async for delta in answer] == []


async def _exit(client: AsyncTritonClient) -> None:
    with pytest.raises(KeyError):
        async with client.chat_stream([{"role": "user", "content": ENDLESS}]) as answer:
            await answer.__anext__()
            raise KeyError


async def _cancel(client: AsyncTritonClient) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in client.stream(ENDLESS):
            begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _cancel_before_the_first(client: AsyncTritonClient) -> None:
    await client.model_config()
    task = asyncio.create_task(client.generate("wait 600000"))
    while "running=1" not in (await client.generate("report")).text:
        pass
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _generator(client: AsyncTritonClient) -> None:
    async def wrapped() -> Any:
        async with client.stream(ENDLESS) as answer:
            async for delta in answer:
                yield delta

    generator = wrapped()
    await generator.__anext__()
    await generator.aclose()


async def _time_out(client: AsyncTritonClient) -> None:
    with pytest.raises((asyncio.TimeoutError, TimeoutError)):
        await asyncio.wait_for(client.generate(ENDLESS), 0.2)


@pytest.mark.parametrize(
    "way", [_leave, _close, _exit, _cancel, _cancel_before_the_first, _generator, _time_out]
)
def test_an_answer_that_is_left_is_cancelled_on_the_server(
    fake_server: TritonServer, client: TritonClient, way: Body
) -> None:
    before = cancelled(client)
    run(fake_server, way)
    eventually(lambda: cancelled(client) == before + 1, "the request ran on")


def test_closing_the_client_cancels_its_requests(fake_server: TritonServer, client: TritonClient) -> None:
    before = cancelled(client)

    async def body(_: AsyncTritonClient) -> None:
        other = AsyncTritonClient(fake_server.grpc_address)
        answers = [other.stream(ENDLESS) for _ in range(4)]
        for answer in answers:
            await answer.__anext__()
        await other.aclose()
        for answer in answers:
            with pytest.raises(RequestError):
                async for _ in answer:
                    pass

    run(fake_server, body)
    eventually(lambda: cancelled(client) == before + 4, "requests ran on")


def test_aclose_from_another_task_ends_the_waiting_one(fake_server: TritonServer) -> None:
    async def body(client: AsyncTritonClient) -> None:
        answer = client.stream("wait 600000")
        reader = asyncio.ensure_future(answer.__anext__())
        while "running=1" not in (await client.generate("report")).text:
            pass
        await answer.aclose()
        with pytest.raises(RequestCancelled):
            await reader

    run(fake_server, body)


def test_a_closed_client_says_so(fake_server: TritonServer) -> None:
    async def body(client: AsyncTritonClient) -> None:
        await client.generate("count 1 1")
        await client.aclose()
        with pytest.raises(RuntimeError, match="the client is closed"):
            await client.generate("count 1 1")

    run(fake_server, body)


@pytest.mark.parametrize(
    ("prompt", "kind", "code"),
    [
        ("fail top_k is -1; 0 or more [invalid-request]", InvalidRequest, "invalid-request"),
        ("fail 256 requests are running; try later [queue-full]", ServerOverloaded, "queue-full"),
        ("break", EngineError, "engine-broken"),
        ("vanish", EngineError, "incomplete-answer"),
        ("stick", EngineError, "engine-error"),
    ],
)
def test_a_failure_is_an_error_of_its_kind(
    fake_server: TritonServer, prompt: str, kind: type[RequestError], code: str
) -> None:
    async def body(client: AsyncTritonClient) -> None:
        with pytest.raises(kind) as caught:
            await client.generate(prompt, request_id="mine")
        assert (caught.value.code, caught.value.request_id) == (code, "mine")
        assert (await client.generate("alive")).text == "alive "

    run(fake_server, body)


def test_what_cannot_be_sent_is_refused_by_name(fake_server: TritonServer) -> None:
    async def refusal(asked: Awaitable[Any]) -> InvalidRequest:
        with pytest.raises(InvalidRequest) as caught:
            await asked
        return caught.value

    async def body(client: AsyncTritonClient) -> None:
        error = await refusal(client.generate("a", SamplingParams(max_tokens="many")))  # type: ignore[arg-type]
        assert error.field == "max_tokens"
        other = AsyncTritonClient(fake_server.grpc_address, model="nope")
        assert isinstance(await refusal(other.generate("a")), ModelNotFound)
        await other.aclose()

    run(fake_server, body)


def test_without_a_server_there_is_a_connect_error_at_once() -> None:
    [port] = choose_ports("127.0.0.1", {"--grpc-port": None})

    async def ask() -> None:
        async with AsyncTritonClient(f"127.0.0.1:{port}") as client:
            for _ in range(2):
                with pytest.raises(ConnectError, match="Connection refused"):
                    await client.generate("a", timeout=30)
            assert not (await client.health()).ready

    asyncio.run(ask())


def test_each_event_loop_has_a_connection_of_its_own(fake_server: TritonServer) -> None:
    client = AsyncTritonClient(fake_server.grpc_address)

    async def ask() -> str:
        text = (await client.generate("again")).text
        await client.aclose()
        return text

    assert [asyncio.run(ask()) for _ in range(3)] == ["again "] * 3
