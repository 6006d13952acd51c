"""Requests as tensors (KServe v2 over gRPC), by the names, types and shapes that the model declares.

Values travel in `raw_input_contents`: little endian, a string as four bytes of length and its UTF-8. They
are packed by `struct`: a request is a handful of scalars, not arrays.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from enginewright_client._dialect import Dialect
from enginewright_client._exceptions import InvalidRequest
from enginewright_client._models import ModelConfig, Prompt, SamplingParams, TensorSpec

__all__ = ["encode_cancellation", "encode_request"]

_INTEGERS: Mapping[str, tuple[str, int, int]] = {
    "INT32": ("<i", -(2**31), 2**31 - 1),
    "INT64": ("<q", -(2**63), 2**63 - 1),
    "UINT32": ("<I", 0, 2**32 - 1),
    "UINT64": ("<Q", 0, 2**64 - 1),
}
_FLOATS = {"FP32": "<f", "FP64": "<d"}
_WORDS = ("stop_words", "bad_words")
_NUMBERS: Mapping[str, str] = {
    # What a setting is where it travels as JSON, in the order of the wire's table.
    "max_tokens": "INT32",
    "min_tokens": "INT32",
    "top_k": "INT32",
    "temperature": "FP32",
    "top_p": "FP32",
    "min_p": "FP32",
    "repetition_penalty": "FP32",
    "presence_penalty": "FP32",
    "frequency_penalty": "FP32",
    "seed": "UINT64",
}


def encode_request(
    config: ModelConfig,
    dialect: Dialect,
    request_id: str,
    prompt: Prompt,
    sampling: SamplingParams,
    *,
    stream: bool,
    max_reasoning_tokens: int | None = None,
    cancel_key: int = 0,
) -> Any:
    """A ModelInferRequest to the model that `config` describes. cancel_key: for `encode_cancellation`.

    Raises InvalidRequest, naming the field, for what the wire cannot carry, for a setting that the model does
    not take, and for one that it cannot do without: Triton lets an ensemble without it hang for ever.
    """
    _text("request_id", request_id)
    request = _Request(config, request_id)
    _add_prompt(request, dialect, prompt)
    if dialect.stream in config.inputs:
        request.add(dialect.stream, dialect.stream, _flag("stream", stream) and stream and config.decoupled)
    for flag in dialect.flags:
        if flag in config.inputs:
            request.add(flag, flag, True)
    if _flag("log_probs", sampling.log_probs):
        if dialect.log_probs == "none" or "return_log_probs" not in config.inputs:
            raise _not_taken(config, dialect, "log_probs")
        request.add("return_log_probs", "log_probs", True)
    members = _add_settings(request, dialect, _settings(dialect, sampling))
    if max_reasoning_tokens is not None:
        if "max_reasoning_tokens" not in config.inputs:
            raise _not_taken(config, dialect, "max_reasoning_tokens")
        request.add("max_reasoning_tokens", "max_reasoning_tokens", max_reasoning_tokens)
    if "cancel_key" in config.inputs:
        request.add("cancel_key", "cancel_key", cancel_key)
    if members or (dialect.as_json and "text_input" in request.names and "messages" not in config.inputs):
        request.add("sampling_parameters", "sampling_parameters", json.dumps(members, ensure_ascii=False))
    missing = [spec.name for spec in config.inputs.values() if not spec.optional]
    for name in missing:
        if name not in request.names:
            field = name.removeprefix(dialect.prefix)
            raise _refused(field, f"is missing: model {config.name} cannot do without it", "give one")
    return request.message


def encode_cancellation(config: ModelConfig, request_id: str, cancel_key: int) -> Any | None:
    """The ModelInferRequest that ends the one with this id and key; None for a model that takes none."""
    if "cancel" not in config.inputs or "cancel_key" not in config.inputs:
        return None
    request = _Request(config, request_id)
    request.add("cancel", "cancel", True)
    request.add("cancel_key", "cancel_key", cancel_key)
    return request.message


class _Request:
    """A ModelInferRequest in the making."""

    def __init__(self, config: ModelConfig, request_id: str) -> None:
        from tritonclient.grpc import service_pb2 as pb

        self.message = pb.ModelInferRequest(model_name=config.name, id=request_id)
        self.config = config
        self.names: set[str] = set()

    def add(self, name: str, field: str, value: Any) -> None:
        """One more input; `field` is its name to the caller, for errors."""
        spec = self.config.inputs[name]
        content, count = _pack(spec, field, value)
        shape = (1, count) if self.config.max_batch_size > 0 else (count,)
        self.message.inputs.add(name=name, datatype=spec.datatype, shape=shape)
        self.message.raw_input_contents.append(content)
        self.names.add(name)


def _add_prompt(request: _Request, dialect: Dialect, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.add("text_input", "text_input", prompt)
    elif "messages" in request.config.inputs:
        request.add("messages", "messages", _messages(prompt))
    else:
        raise _refused(
            "messages",
            f"is an input that model {request.config.name} ({dialect.name}) does not have",
            "apply the chat template yourself and give a text",
        )


def _add_settings(request: _Request, dialect: Dialect, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add those that have an input; returns the members of `sampling_parameters`."""
    members = {}
    for field, value in settings.items():
        name = dialect.input_of(field)
        if name in request.config.inputs:
            request.add(name, field, value)
        elif dialect.as_json:
            _check_json(field, value)
            members[name] = list(value) if field in _WORDS else value
        else:
            raise _not_taken(request.config, dialect, field)
    return members


def _settings(dialect: Dialect, sampling: SamplingParams) -> dict[str, Any]:
    """What was given, in this dialect's terms."""
    given = {name: value for name in _NUMBERS if (value := getattr(sampling, name)) is not None}
    given |= {name: value for name in _WORDS if (value := getattr(sampling, name))}
    if dialect.greedy_by_top_k and given.get("temperature") == 0:
        del given["temperature"]
        given["top_k"] = 1
    if type(given.get("top_k")) is int and given["top_k"] == 0:  # not 0.0, not False: those are refused
        given["top_k"] = dialect.top_k_off
    return given


def _check_json(field: str, value: Any) -> None:
    """The bounds of the wire hold for JSON too."""
    _pack(TensorSpec(field, _NUMBERS.get(field, "BYTES"), (-1,)), field, value)


def _pack(spec: TensorSpec, field: str, value: Any) -> tuple[bytes, int]:
    """The bytes of a value, and how many elements they are."""
    if field in _WORDS:
        if isinstance(value, str):
            raise _refused(field, f"is the text {value!r}", "give a list of texts")
        return b"".join(_text(field, word) for word in value), len(value)
    if spec.datatype == "BYTES":
        return _text(field, value), 1
    if spec.datatype == "BOOL":
        return (b"\x01" if _flag(field, value) else b"\x00"), 1
    if spec.datatype in _INTEGERS:
        return _integer(field, value, *_INTEGERS[spec.datatype]), 1
    if spec.datatype in _FLOATS:
        return _float(field, value, _FLOATS[spec.datatype]), 1
    raise _refused(field, f"has the type {spec.datatype}", "this client does not send it")


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


def _integer(name: str, number: int, layout: str, low: int, high: int) -> bytes:
    if isinstance(number, bool) or not isinstance(number, int):
        raise _refused(name, f"is {number!r}", "give an integer")
    if not low <= number <= high:
        raise _refused(name, f"is {number}", f"the wire carries {low} to {high}")
    return struct.pack(layout, number)


def _float(name: str, number: float, layout: str) -> bytes:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise _refused(name, f"is {number!r}", "give a number")
    try:
        return struct.pack(layout, number)
    except (OverflowError, struct.error):  # the latter for an integer beyond any float
        raise _refused(name, f"is {number}", "the wire carries 32-bit floats") from None


def _flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise _refused(name, f"is {value!r}", "give True or False")
    return value


def _not_taken(config: ModelConfig, dialect: Dialect, field: str) -> InvalidRequest:
    return _refused(
        field, f"is not taken by model {config.name} ({dialect.name})", "leave it out, or ask another model"
    )


def _refused(field: str, problem: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"{field} {problem}", code="invalid-request", hint=hint, field=field)
