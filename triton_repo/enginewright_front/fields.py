"""Values of single fields: from a tensor or from JSON into Python, within the bounds of the wire's table.

What cannot be seen: Triton turns JSON numbers into the tensor's integer type before any model runs, so a
`max_tokens` of 2**32 + 2 arrives as 2, and is served as 2. What is outside the bounds after that is refused.
"""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from enginewright_front.refusal import InvalidRequest
from enginewright_front.wire import Tensor

Value = str | int | float | bool | tuple[str, ...]

_SHOWN = 60


def value_from_tensor(tensor: Tensor, array: NDArray[Any]) -> Value:
    """The checked value of input `tensor`: a scalar [1, 1] or [1], a list [1, n]. Raises InvalidRequest."""
    flat = array.reshape(-1)
    if tensor.is_list:
        return tuple(decode_text(f"{tensor.name}[{index}]", item) for index, item in enumerate(flat))
    if flat.size != 1:
        raise InvalidRequest(tensor.name, f"has {flat.size} values", hint="send exactly one")
    if tensor.data_type == "TYPE_STRING":
        return decode_text(tensor.name, flat[0])
    return check_value(tensor, flat[0].item())


def value_from_json(tensor: Tensor, value: object) -> Value:
    """The checked value of `tensor` from JSON; numbers and flags may be strings, as genai-perf sends."""
    if tensor.is_list:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise InvalidRequest(tensor.name, f"is {show(value)}", hint="give a string or a list of strings")
        return tuple(check_text(f"{tensor.name}[{index}]", item) for index, item in enumerate(items))
    if tensor.data_type == "TYPE_STRING":
        if not isinstance(value, str):
            raise InvalidRequest(tensor.name, f"is {show(value)}", hint="give a string")
        return check_text(tensor.name, value)
    if tensor.data_type == "TYPE_BOOL":
        return _flag(tensor, value)
    return check_value(tensor, _number(tensor, value))


def check_value(tensor: Tensor, value: int | float | bool) -> Value:
    """`value` itself when it is finite and within the bounds of `tensor`. Raises InvalidRequest otherwise."""
    if tensor.low is None or tensor.high is None:
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(tensor.name, f"is {value}", hint="give a finite number")
    if value < tensor.low:
        raise InvalidRequest(
            tensor.name, f"is {show(value)}", hint=f"the smallest allowed is {tensor.low:.10g}"
        )
    if value > tensor.high:
        raise InvalidRequest(
            tensor.name, f"is {show(value)}", hint=f"the largest allowed is {int(tensor.high)}"
        )
    return value


def decode_text(field: str, data: object) -> str:
    """BYTES of the wire as text. Raises InvalidRequest for what is not UTF-8 or holds NUL."""
    if not isinstance(data, bytes):
        raise InvalidRequest(field, f"is of type {type(data).__name__}", hint="send BYTES")
    try:
        return check_text(field, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            field, f"is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}", hint="send UTF-8"
        ) from None


def check_text(field: str, text: str) -> str:
    """`text` itself. Raises InvalidRequest when it holds NUL or a lone surrogate, as JSON's "\\ud800" is."""
    nul = text.find("\0")
    if nul >= 0:
        raise InvalidRequest(field, f"holds NUL at character {nul}", hint="remove it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            field,
            f"holds the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}",
            hint="send whole characters",
        ) from None
    return text


def show(value: object) -> str:
    """`value` as a message may quote it: short, and printable whatever it is."""
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, float):
        # float32 0.1 is 0.10000000149011612 in Python: show what the caller wrote.
        return f"{value:.7g}"
    text = ascii(value[: _SHOWN + 1]) if isinstance(value, str) else ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _number(tensor: Tensor, value: object) -> int | float:
    whole = tensor.data_type != "TYPE_FP32"
    wanted = "an integer" if whole else "a number"
    refused = InvalidRequest(tensor.name, f"is {show(value)}", hint=f"give {wanted}")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise refused
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                raise refused from None
    if not whole:
        try:
            return float(value)
        except OverflowError:
            raise refused from None
    if isinstance(value, float):
        if not value.is_integer():
            raise refused
        value = int(value)
    return value


def _flag(tensor: Tensor, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise InvalidRequest(tensor.name, f"is {show(value)}", hint="give true or false")
