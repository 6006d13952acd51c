"""Reads the responses of one request: tensors in, deltas out."""

from __future__ import annotations

import struct
from typing import Any, cast

from enginewright_client._dialect import Dialect
from enginewright_client._exceptions import EngineError
from enginewright_client._models import Delta, FinishReason, Usage

__all__ = ["AnswerReader", "is_final"]

_REASONS = {"stop": "stop", "length": "length", "cancelled": "cancelled", "abort": "cancelled"}
_UNFINISHED = ("None", "")  # what Python writes for a reason that is not known yet
_BAD = (KeyError, struct.error, UnicodeDecodeError)


class AnswerReader:
    """One answer. `finished` is true after the delta with the finish reason.

    tells_reason: whether the model has an output for it. Where it has not, the end of the call is the end of
    the answer, and it was `length` when all of `max_tokens` are there.
    """

    def __init__(
        self, dialect: Dialect, *, request_id: str, tells_reason: bool, max_tokens: int | None
    ) -> None:
        self._dialect = dialect
        self._request_id = request_id
        self._tells_reason = tells_reason
        self._max_tokens = max_tokens
        self._seen = 0  # responses
        self._length = 0  # characters given out, where texts are cumulative
        self._log_probs = 0  # given out, where they are cumulative
        self._inputs: int | None = None
        self._outputs: int | None = None
        self.finished = False

    def read(self, response: Any) -> Delta:
        """A ModelInferResponse as a Delta. Raises EngineError for one that does not keep the contract."""
        tensors = dict(
            zip((out.name for out in response.outputs), response.raw_output_contents, strict=False)
        )
        self._seen += 1
        try:
            reason = self._reason(tensors)
            self._count(tensors)
            if not self._tells_reason and is_final(response):
                reason = self._guess()
            text = self._text(tensors, last=reason is not None)
            log_probs = self._new_log_probs(tensors)
            usage = self._usage() if reason is not None else None
        except _BAD as error:
            raise EngineError(
                f"a response of model {response.model_name} cannot be read: {error}",
                code="bad-response",
                hint=f"was taken for a model of {self._dialect.name}",
                request_id=self._request_id,
            ) from error
        self.finished = self.finished or reason is not None
        return Delta(text, reason, usage, log_probs)

    def end(self) -> Delta | None:
        """The call is over. The last delta, if it is still to come; raises EngineError for half an answer."""
        if self.finished:
            return None
        if self._tells_reason or not self._seen:
            raise EngineError(
                "the answer ended without a finish reason",
                code="incomplete-answer",
                hint="see the server's log",
                request_id=self._request_id,
            )
        self.finished = True
        return Delta("", self._guess(), self._usage())

    def _text(self, tensors: dict[str, bytes], *, last: bool) -> str:
        text = _first_text(tensors["text_output"]) if "text_output" in tensors else ""
        if not self._dialect.cumulative or not text:
            return text
        # Half a character is shown as U+FFFD until its other half is there.
        whole = text if last else text.rstrip("\ufffd")
        new, self._length = whole[self._length :], max(self._length, len(whole))
        return new

    def _reason(self, tensors: dict[str, bytes]) -> FinishReason | None:
        if "finish_reason" not in tensors:
            return None
        text = _first_text(tensors["finish_reason"])
        if text in _UNFINISHED:
            return None
        if text not in _REASONS:
            raise EngineError(
                f"the answer ended by {text!r}",
                code="engine-error",
                hint="see the server's log",
                request_id=self._request_id,
            )
        return cast("FinishReason", _REASONS[text])

    def _guess(self) -> FinishReason:
        full = self._max_tokens is not None and (self._outputs or 0) >= self._max_tokens
        return "length" if full else "stop"

    def _count(self, tensors: dict[str, bytes]) -> None:
        if "num_input_tokens" in tensors:
            self._inputs = _int32(tensors["num_input_tokens"])
        if "num_output_tokens" in tensors:
            new = _int32(tensors["num_output_tokens"])
            self._outputs = new + (self._outputs or 0) if self._dialect.counts_add_up else new

    def _usage(self) -> Usage | None:
        if self._inputs is None or self._outputs is None:
            return None
        return Usage(self._inputs, self._outputs)

    def _new_log_probs(self, tensors: dict[str, bytes]) -> tuple[float, ...]:
        if "output_log_probs" not in tensors:
            return ()
        values = _floats(tensors["output_log_probs"])
        if self._dialect.log_probs == "cumulative":
            new, self._log_probs = values[self._log_probs :], max(self._log_probs, len(values))
            return new
        return values


def is_final(response: Any) -> bool:
    """Whether Triton says that no response follows."""
    return bool(response.parameters["triton_final_response"].bool_param)


def _first_text(content: bytes) -> str:
    (length,) = struct.unpack_from("<I", content)
    if len(content) < 4 + length:
        raise struct.error(f"a text of {length} bytes in {len(content) - 4}")
    return content[4 : 4 + length].decode()


def _int32(content: bytes) -> int:
    return int(struct.unpack_from("<i", content)[0])


def _floats(content: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(content) // 4}f", content)
