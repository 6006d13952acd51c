"""A request to the model and its answer: whole, or as server-sent events.

A streamed answer starts when its first piece is there, so that a refusal still gets its own HTTP status. What
fails later is an event with `error`, which the `openai` package raises, and the stream ends without [DONE].
Whoever hangs up cancels the request, in the engine too, and also while it still waits for its first token.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

from enginewright_client import (
    AsyncChatStream,
    AsyncCompletionStream,
    AsyncTritonClient,
    ChatDelta,
    Delta,
    FinishReason,
    RequestError,
)
from fastapi import Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from enginewright_gateway.answers import DONE, Answer, event
from enginewright_gateway.api_error import ApiError, from_request_error
from enginewright_gateway.connection import unless_gone
from enginewright_gateway.schema import ChatRequest, CompletionRequest

__all__ = ["answer_chat", "answer_completion"]

Stream: TypeAlias = AsyncChatStream | AsyncCompletionStream
Piece: TypeAlias = ChatDelta | Delta
Choice: TypeAlias = dict[str, Any]


async def answer_chat(client: AsyncTritonClient, request: Request, body: ChatRequest) -> Response:
    """POST /v1/chat/completions. Thinking is in `reasoning_content`, which DeepSeek and vLLM have as well."""
    answer = Answer.new("chat.completion", body.model)
    messages, sampling = [message.message() for message in body.messages], body.sampling()
    budget = body.max_reasoning_tokens
    if body.stream:
        stream = client.chat_stream(messages, sampling, max_reasoning_tokens=budget, request_id=answer.id)
        opening = {"delta": {"role": "assistant", "content": ""}}
        return await _streamed(request, answer, stream, opening, _chat_choice, body.wants_usage)
    chat = client.chat(messages, sampling, max_reasoning_tokens=budget, request_id=answer.id)
    done = await unless_gone(request, chat)
    message = {"role": "assistant", "content": done.content}
    if done.reasoning:
        message["reasoning_content"] = done.reasoning
    return _whole(answer.whole({"message": message}, _reason(done.finish_reason), done.usage), answer)


async def answer_completion(client: AsyncTritonClient, request: Request, body: CompletionRequest) -> Response:
    """POST /v1/completions."""
    answer = Answer.new("text_completion", body.model)
    if body.stream:
        stream = client.stream(body.text, body.sampling(), request_id=answer.id)
        return await _streamed(request, answer, stream, None, _text_choice, body.wants_usage)
    done = await unless_gone(request, client.generate(body.text, body.sampling(), request_id=answer.id))
    return _whole(answer.whole({"text": done.text}, _reason(done.finish_reason), done.usage), answer)


def _chat_choice(delta: ChatDelta) -> Choice | None:
    pieces = {"reasoning_content": delta.reasoning, "content": delta.content}
    given = {name: text for name, text in pieces.items() if text}
    return {"delta": given} if given else None


def _text_choice(delta: Delta) -> Choice | None:
    return {"text": delta.text} if delta.text else None


def _whole(body: dict[str, Any], answer: Answer) -> Response:
    return JSONResponse(body, headers={"X-Request-Id": answer.id})


async def _streamed(
    request: Request,
    answer: Answer,
    stream: Stream,
    opening: Choice | None,
    choice: Callable[[Any], Choice | None],
    wants_usage: bool,
) -> Response:
    try:
        first: Piece = await unless_gone(request, stream.__anext__())
    except BaseException:
        await stream.aclose()
        raise

    async def events() -> AsyncIterator[str]:
        if opening is not None:
            yield answer.chunk(opening)
        try:
            delta: Piece = first
            while delta.finish_reason is None:
                if (given := choice(delta)) is not None:
                    yield answer.chunk(given)
                delta = await stream.__anext__()
            reason = _reason(delta.finish_reason)
        except (RequestError, ApiError) as error:
            yield event((error if isinstance(error, ApiError) else from_request_error(error)).body())
            return
        if (given := choice(delta)) is not None:
            yield answer.chunk(given)
        yield answer.chunk({"delta": {}} if opening is not None else {"text": ""}, reason)
        if wants_usage and delta.usage is not None:
            yield answer.usage_chunk(delta.usage)
        yield DONE

    return _EventStream(events(), stream, {"X-Request-Id": answer.id})


class _EventStream(StreamingResponse):
    """Closes `stream` whatever happens: a caller who hangs up early may leave `events` never started."""

    def __init__(self, events: AsyncIterator[str], stream: Stream, headers: dict[str, str]) -> None:
        unbuffered = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=unbuffered | headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._stream.aclose()


def _reason(reason: FinishReason) -> str:
    """OpenAI has no word for an answer that the server broke off: it is an error."""
    if reason == "cancelled":
        raise ApiError(503, "the server ended the answer before it was complete", code="cancelled")
    return reason
