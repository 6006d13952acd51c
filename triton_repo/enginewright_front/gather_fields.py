"""The fields of a request, wherever it put them: tensors, `sampling_parameters` or request parameters.

vLLM's clients send a JSON object of settings; Triton's generate endpoint passes on what a model does not
declare as request parameters. Two places that contradict each other are refused, and so is any name that is
not known: a misspelt JSON field arrives as a request parameter, and would be ignored in silence.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, cast

from numpy.typing import NDArray

from enginewright_front.fields import Value, show, value_from_json, value_from_tensor
from enginewright_front.refusal import InvalidRequest
from enginewright_front.strict_json import parse_json
from enginewright_front.wire import INPUT

MAX_SETTINGS_BYTES = 256 * 1024

_ALIASES = {"stop": "stop_words", "n": "num_return_sequences"}
_NOT_SERVED = {
    "ignore_eos": "set min_tokens to max_tokens instead",
    "best_of": "send several requests instead",
    "use_beam_search": "beam search is not served",
    "logprobs": "send the input return_log_probs instead",
    "stop_token_ids": "send one id as end_id, or stop_words",
    "prompt": "the prompt is text_input or messages",
    "max_new_tokens": "did you mean 'max_tokens'?",
    **dict.fromkeys(
        ("guided_json", "guided_regex", "guided_grammar", "guided_choice", "response_format"),
        "answers are not held to a schema or grammar",
    ),
}
# `id` is how the generate endpoint passes on a request's id.
_HARMLESS = frozenset({"id"})
_TENSORS_ONLY = frozenset({"text_input", "messages", "sampling_parameters", "cancel", "cancel_key"})


def gather_fields(tensors: Mapping[str, NDArray[Any]], parameters: str) -> dict[str, Value]:
    """The checked value of every field that was given, by its name in the wire's table.

    tensors: the inputs that were sent. parameters: Triton's JSON of the request's parameters. Raises
    InvalidRequest.
    """
    given = {name: value_from_tensor(INPUT[name], array) for name, array in tensors.items()}
    if "sampling_parameters" in given:
        settings = cast(str, given.pop("sampling_parameters"))
        _merge(given, _object("sampling_parameters", settings), "sampling_parameters", flags=False)
    _merge(given, _object("parameters", parameters), "parameters", flags=True)
    _join_lengths(given)
    return given


def _object(source: str, text: str) -> dict[str, Any]:
    if not text:
        return {}
    if len(text) > MAX_SETTINGS_BYTES:
        raise InvalidRequest(
            source, f"has {len(text)} characters", hint=f"at most {MAX_SETTINGS_BYTES} are allowed"
        )
    settings = parse_json(source, text)
    if not isinstance(settings, dict):
        raise InvalidRequest(source, f"is {show(settings)}", hint="send a JSON object")
    return settings


def _merge(given: dict[str, Value], settings: Mapping[str, Any], source: str, *, flags: bool) -> None:
    for key, value in settings.items():
        name = _ALIASES.get(key, key)
        if name in _HARMLESS and flags:
            continue
        tensor = INPUT.get(name)
        if tensor is None or name in _TENSORS_ONLY or not (flags or tensor.setting):
            raise _unknown(key, source)
        made = value_from_json(tensor, value)
        if name in given and not _same(given[name], made):
            raise InvalidRequest(
                name, f"is {show(given[name])} and, in {source}, {show(made)}", hint="give it once"
            )
        given[name] = made


def _same(one: Value, other: Value) -> bool:
    # 0.7 as a float32 tensor and 0.7 as JSON are the same wish.
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def _unknown(key: str, source: str) -> InvalidRequest:
    names = [name for name in INPUT if name not in ("cancel", "cancel_key", "sampling_parameters")]
    near = difflib.get_close_matches(key[:40], names, n=1, cutoff=0.7)
    hint = _NOT_SERVED.get(key) or (
        f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(names)}"
    )
    what = "request parameter" if source == "parameters" else f"member of {source}"
    return InvalidRequest(show(key), f"is no known {what}", hint=hint)


def _join_lengths(given: dict[str, Value]) -> None:
    """genai-perf sends min_length for min_tokens."""
    shortest = given.pop("min_length", None)
    if shortest is not None and given.setdefault("min_tokens", shortest) != shortest:
        raise InvalidRequest(
            "min_length", f"is {shortest}, min_tokens {given['min_tokens']}", hint="give one of them"
        )
