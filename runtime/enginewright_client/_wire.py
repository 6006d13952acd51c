"""Requests and responses as the tensors of the wire contract (KServe v2 over gRPC, model `llm`).

A scalar is [1, 1], a list [1, n]. Values travel in `raw_input_contents`: little endian, a string as four
bytes of length and its UTF-8. They are packed by `struct`: a response is a handful of scalars, not arrays.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any, cast

from enginewright_client._exceptions import EngineError, InvalidRequest
from enginewright_client._models import Delta, FinishReason, ModelConfig, Prompt, SamplingParams, Usage

__all__ = ["decode_delta", "decode_model_config", "encode_request"]

_FLOAT_FIELDS = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_INT_FIELDS = ("max_tokens", "min_tokens", "top_k")
_TEXT_FIELDS = ("stop_words", "bad_words")


def encode_request(
    model: str, request_id: str, prompt: Prompt, sampling: SamplingParams, *, stream: bool
) -> Any:
    """A ModelInferRequest. Raises InvalidRequest for what the wire cannot carry, naming the field."""
    from tritonclient.grpc import service_pb2 as pb

    request = pb.ModelInferRequest(model_name=model, id=request_id)
    if isinstance(prompt, str):
        _add(request, "text_input", "BYTES", _text("text_input", prompt))
    else:
        _add(request, "messages", "BYTES", _text("messages", _messages(prompt)))
    _add(request, "stream", "BOOL", _flag("stream", stream))
    if sampling.log_probs:
        _add(request, "return_log_probs", "BOOL", _flag("log_probs", sampling.log_probs))
    for name in _INT_FIELDS:
        if (number := getattr(sampling, name)) is not None:
            _add(request, name, "INT32", _integer(name, number, "<i", -(2**31), 2**31 - 1))
    for name in _FLOAT_FIELDS:
        if (number := getattr(sampling, name)) is not None:
            _add(request, name, "FP32", _float(name, number))
    if sampling.seed is not None:
        _add(request, "seed", "UINT64", _integer("seed", sampling.seed, "<Q", 0, 2**64 - 1))
    for name in _TEXT_FIELDS:
        if words := getattr(sampling, name):
            _add(request, name, "BYTES", *_words(name, words))
    return request


def decode_delta(response: Any, request_id: str) -> Delta:
    """A ModelInferResponse as a Delta. Raises EngineError for one that does not keep the contract."""
    tensors = dict(zip((out.name for out in response.outputs), response.raw_output_contents, strict=False))
    try:
        text = _first_text(tensors["text_output"]) if "text_output" in tensors else ""
        reason = _first_text(tensors["finish_reason"]) if "finish_reason" in tensors else None
        usage = None
        if reason is not None:
            usage = Usage(_int32(tensors["num_input_tokens"]), _int32(tensors["num_output_tokens"]))
        log_probs = _floats(tensors["output_log_probs"]) if "output_log_probs" in tensors else ()
    except (KeyError, struct.error, UnicodeDecodeError) as error:
        raise EngineError(
            f"a response of model {response.model_name} cannot be read: {error}",
            code="bad-response",
            hint="is it a model of Enginewright's wire contract?",
            request_id=request_id,
        ) from error
    return Delta(text, cast("FinishReason | None", reason), usage, log_probs)


def decode_model_config(config: Any) -> ModelConfig:
    """Triton's ModelConfig message as ours. `default.X`, `limit.X` and `reasoning.X` are grouped."""
    strings = {name: value.string_value for name, value in sorted(config.parameters.items())}
    groups: dict[str, dict[str, Any]] = {"default": {}, "limit": {}, "reasoning": {}}
    for name, text in strings.items():
        group, _, key = name.partition(".")
        if key and group in groups:
            groups[group][key] = _json_or_text(text)
    length = _json_or_text(strings.get("max_seq_len", ""))
    return ModelConfig(
        name=config.name,
        max_seq_len=length if isinstance(length, int) else None,
        parameters=strings,
        defaults=groups["default"],
        limits=groups["limit"],
        reasoning=groups["reasoning"],
    )


def _add(request: Any, name: str, datatype: str, content: bytes, count: int = 1) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=(1, count))
    request.raw_input_contents.append(content)


def _messages(messages: Sequence[Any]) -> str:
    try:
        return json.dumps([dict(message) for message in messages], ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise _refused(
            "messages", f"cannot be written as JSON: {error}", "a list of {role, content}"
        ) from error


def _text(name: str, text: str) -> bytes:
    if not isinstance(text, str):
        raise _refused(name, f"is {text!r}", "give a text")
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise _refused(
            name, f"is not valid Unicode: {error.reason} at {error.start}", "no lone surrogates"
        ) from None
    return struct.pack("<I", len(data)) + data


def _words(name: str, words: Sequence[str]) -> tuple[bytes, int]:
    if isinstance(words, str):
        raise _refused(name, f"is the text {words!r}", "give a list of texts")
    return b"".join(_text(name, word) for word in words), len(words)


def _integer(name: str, number: int, layout: str, low: int, high: int) -> bytes:
    if isinstance(number, bool) or not isinstance(number, int):
        raise _refused(name, f"is {number!r}", "give an integer")
    if not low <= number <= high:
        raise _refused(name, f"is {number}", f"the wire carries {low} to {high}")
    return struct.pack(layout, number)


def _float(name: str, number: float) -> bytes:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise _refused(name, f"is {number!r}", "give a number")
    try:
        return struct.pack("<f", number)
    except OverflowError:
        raise _refused(name, f"is {number}", "the wire carries 32-bit floats") from None


def _flag(name: str, value: bool) -> bytes:
    if not isinstance(value, bool):
        raise _refused(name, f"is {value!r}", "give True or False")
    return b"\x01" if value else b"\x00"


def _refused(field: str, problem: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"{field} {problem}", code="invalid-request", hint=hint, field=field)


def _first_text(content: bytes) -> str:
    (length,) = struct.unpack_from("<I", content)
    if len(content) < 4 + length:
        raise struct.error(f"a text of {length} bytes in {len(content) - 4}")
    return content[4 : 4 + length].decode()


def _int32(content: bytes) -> int:
    return int(struct.unpack_from("<i", content)[0])


def _floats(content: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(content) // 4}f", content)


def _json_or_text(text: str) -> Any:
    parse: Callable[[str], Any] = json.loads
    try:
        return parse(text)
    except ValueError:
        return text
