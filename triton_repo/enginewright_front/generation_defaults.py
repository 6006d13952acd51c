"""Sampling defaults from `generation_config.json`, with transformers' meaning of `do_sample`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from enginewright_errors import CheckpointError

from enginewright_front.front_config import SamplingDefaults
from enginewright_front.wire import INPUT

_NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def generation_defaults(checkpoint: Path) -> SamplingDefaults:
    """The defaults in `checkpoint/generation_config.json`; greedy unless it says `do_sample`.

    A missing top_k means off, not the 50 that transformers fills in. Raises CheckpointError naming the field.
    """
    path = checkpoint / "generation_config.json"
    if not path.exists():
        return SamplingDefaults()
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _wrong(path, f"is not JSON ({error})") from error
    if not isinstance(data, dict):
        raise _wrong(path, "is not a JSON object")
    found = {name: _checked(path, name, data[name]) for name in _NAMES if data.get(name) is not None}
    # A temperature of 0 in the file means greedy; a request that then asks to sample gets the neutral 1.
    greedy = data.get("do_sample") is not True or found.get("temperature") == 0
    if found.get("temperature") == 0:
        del found["temperature"]
    return SamplingDefaults(greedy=greedy, **found)


def _checked(path: Path, name: str, value: Any) -> Any:
    tensor = INPUT[name]
    if tensor.low is None or tensor.high is None:
        return value
    whole = tensor.data_type == "TYPE_INT32"
    right = isinstance(value, int) if whole else isinstance(value, int | float) and math.isfinite(value)
    if isinstance(value, bool) or not right or not tensor.low <= value <= tensor.high:
        raise _wrong(path, f"{name} is {value!r}, allowed is {tensor.low:g} to {tensor.high:g}")
    if name == "top_p" and value == 0:
        raise _wrong(path, "top_p is 0, it must be above 0")
    return value if whole else float(value)


def _wrong(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {problem}", code="generation-config", hint="correct the checkpoint's file"
    )
