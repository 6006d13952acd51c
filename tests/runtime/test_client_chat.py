"""Chats: thinking apart from the answer, sent without the thinking, warned when greedy."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator

import pytest
from enginewright_client import (
    AsyncTritonClient,
    ChatCompletion,
    ChatDelta,
    Delta,
    GreedyReasoningWarning,
    InvalidRequest,
    MockRequest,
    MockTransport,
    SamplingParams,
    TritonClient,
    Usage,
)
from enginewright_serve import TritonServer

QUESTION = [{"role": "user", "content": "What is 2 + 2?"}]
ANSWER = "Two </think like> and two.\n</think>\n\nIt is <think> 4 👩‍🚀."
THINKS = {"reasoning.open": "<think>", "reasoning.close": "</think>"}
OPENED = {**THINKS, "reasoning.opened_by_template": "true"}


def says(*pieces: str | Delta, **parameters: str) -> MockTransport:
    return MockTransport(lambda request: pieces, parameters=parameters)


def chat(transport: MockTransport) -> tuple[ChatCompletion, list[ChatDelta]]:
    """The answer of both clients, whole and in pieces."""

    async def ask() -> tuple[ChatCompletion, list[ChatDelta]]:
        async with AsyncTritonClient(transport=transport) as client:
            whole = await client.chat(QUESTION, request_id="mine")
            return whole, [delta async for delta in client.chat_stream(QUESTION)]

    with TritonClient(transport=transport) as client:
        whole, deltas = client.chat(QUESTION, request_id="mine"), list(client.chat_stream(QUESTION))
    assert asyncio.run(ask()) == (whole, deltas)
    return whole, deltas


@pytest.mark.parametrize("at", range(1, len(ANSWER)))
def test_thinking_and_answer_do_not_depend_on_the_cut(at: int) -> None:
    whole, deltas = chat(says(ANSWER[:at], ANSWER[at:], **OPENED))
    assert whole.content == "It is <think> 4 👩‍🚀."
    assert whole.reasoning.strip() == "Two </think like> and two."
    assert "".join(delta.content for delta in deltas) == whole.content
    assert "".join(delta.reasoning for delta in deltas) == whole.reasoning
    assert not any(delta.content and delta.reasoning for delta in deltas)
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["stop"]


def test_a_budget_that_ends_inside_leaves_no_answer() -> None:
    end = Delta("</th", "length", Usage(9, 3))
    whole, deltas = chat(says("Two and", " two", end, **OPENED))
    assert (whole.reasoning, whole.content) == ("Two and two</th", "")
    assert (whole.finish_reason, whole.usage, whole.request_id) == ("length", Usage(9, 3), "mine")
    assert deltas[-1] == ChatDelta(finish_reason="length", usage=Usage(9, 3))


def test_a_model_that_does_not_think_only_answers() -> None:
    whole, _ = chat(says("<think>4</think>"))
    assert (whole.reasoning, whole.content) == ("", "<think>4</think>")


def test_the_message_of_an_answer_is_history_without_thinking() -> None:
    seen: list[MockRequest] = []

    def handler(request: MockRequest) -> Iterator[str]:
        seen.append(request)
        yield "Hm.</think>\n\n4"

    with TritonClient(transport=MockTransport(handler, parameters=OPENED)) as client:
        with client.chat_stream(QUESTION) as answer:
            list(answer)
        history = [*QUESTION, answer.message, {"role": "user", "content": "</think> And 3 + 3?"}]
        client.chat(history)
        raw = {"role": "assistant", "content": "<think>Hm.</think>\n\n4"}
        client.chat([*QUESTION, raw, history[-1]])
        client.generate([*QUESTION, raw, history[-1]])
    assert answer.message == {"role": "assistant", "content": "4"}
    assert seen[1].prompt == seen[2].prompt == history
    assert list(seen[3].prompt)[1] == raw, "generate sends what it is given"


@pytest.mark.parametrize("sampling", [SamplingParams(temperature=0), SamplingParams(top_k=1)])
def test_greedy_thinking_warns_once(sampling: SamplingParams) -> None:
    with TritonClient(transport=says("4", **THINKS)) as client:
        with pytest.warns(GreedyReasoningWarning) as caught:
            client.chat(QUESTION, sampling)
            client.chat(QUESTION, sampling)
        assert len(caught) == 1


def test_greedy_answers_and_sampled_thinking_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with TritonClient(transport=says("4")) as client:
            client.chat(QUESTION, SamplingParams(temperature=0))
        with TritonClient(transport=says("4", **THINKS)) as client:
            client.chat(QUESTION, SamplingParams(temperature=0.6))
            client.chat(QUESTION)
            assert client.health().generates


def test_a_text_is_no_chat() -> None:
    with TritonClient(transport=says("4")) as client, pytest.raises(InvalidRequest) as caught:
        client.chat("What is 2 + 2?")  # type: ignore[arg-type]
    assert caught.value.field == "messages"


def test_a_limit_of_thinking_is_sent() -> None:
    seen: list[MockRequest] = []

    def handler(request: MockRequest) -> list[str]:
        seen.append(request)
        return ["4"]

    with TritonClient(transport=MockTransport(handler)) as client:
        client.chat(QUESTION, max_reasoning_tokens=16)
        list(client.chat_stream(QUESTION, max_reasoning_tokens=17))
    assert [request.inputs["max_reasoning_tokens"] for request in seen] == [16, 17]


def test_a_chat_goes_through_a_real_server(fake_server: TritonServer) -> None:
    with TritonClient(fake_server.grpc_address) as client:
        answer = client.chat([{"role": "user", "content": "one two"}])
        assert (answer.content, answer.reasoning) == ("one two ", "")
        assert answer.usage == Usage(2, 2)
