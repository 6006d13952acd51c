"""A Triton request -> a checked `GenerateRequest`. Every refusal names the field, the value and the bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from numpy.typing import NDArray

from enginewright_front.backend import Sampling
from enginewright_front.fields import Value, show
from enginewright_front.front_config import FrontLimits, SamplingDefaults
from enginewright_front.gather_fields import MAX_SETTINGS_BYTES, gather_fields
from enginewright_front.messages import Message, parse_messages
from enginewright_front.refusal import InvalidRequest
from enginewright_front.wire import INPUT

_SAMPLERS = ("top_k", "top_p", "min_p")


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What one caller asked for. Exactly one of `text` and `messages` is given.

    max_tokens: None when the caller left it to the server. max_reasoning_tokens: None is no limit.
    echo: text_output begins with `text`.
    return_*: None when the caller did not say.
    """

    text: str | None
    messages: tuple[Message, ...] | None
    max_tokens: int | None
    max_reasoning_tokens: int | None
    sampling: Sampling
    stop_words: tuple[str, ...]
    bad_words: tuple[str, ...]
    stream: bool
    echo: bool
    return_log_probs: bool
    return_perf_metrics: bool
    return_finish_reason: bool | None
    return_num_input_tokens: bool | None
    return_num_output_tokens: bool | None


def check_sizes(tensors: Mapping[str, NDArray[Any]], limits: FrontLimits) -> None:
    """Refuse what is too large before anything is decoded. Raises InvalidRequest."""
    for name, array in tensors.items():
        flat = array.reshape(-1)
        if INPUT[name].is_list:
            _check_words(name, flat.size, max((len(item) for item in flat), default=0), limits)
        elif INPUT[name].data_type == "TYPE_STRING" and flat.size:
            bound = MAX_SETTINGS_BYTES if name == "sampling_parameters" else limits.max_prompt_bytes
            if len(flat[0]) > bound:
                raise InvalidRequest(name, f"has {len(flat[0])} bytes", hint=f"at most {bound} are allowed")


def parse_request(
    tensors: Mapping[str, NDArray[Any]], parameters: str, *, limits: FrontLimits, defaults: SamplingDefaults
) -> GenerateRequest:
    """tensors: the inputs that were sent, by name. parameters: Triton's JSON of the request's parameters.

    Raises InvalidRequest (`check_sizes` included).
    """
    check_sizes(tensors, limits)
    given = gather_fields(tensors, parameters)
    _check_together(given, limits)
    text_input = cast("str | None", given.get("text_input"))
    max_tokens = cast("int | None", given.get("max_tokens"))
    exclude = given.get("exclude_input_in_output", True)
    messages = given.get("messages")
    return GenerateRequest(
        text=text_input,
        messages=None if messages is None else parse_messages(cast(str, messages)),
        max_tokens=max_tokens,
        max_reasoning_tokens=cast("int | None", given.get("max_reasoning_tokens")),
        sampling=_sampling(given, defaults),
        stop_words=_words(given, "stop_words"),
        bad_words=_words(given, "bad_words"),
        stream=bool(given.get("stream", False)),
        echo=text_input is not None and not exclude,
        return_log_probs=bool(given.get("return_log_probs", False)),
        return_perf_metrics=bool(given.get("return_perf_metrics", False)),
        return_finish_reason=cast("bool | None", given.get("return_finish_reason")),
        return_num_input_tokens=cast("bool | None", given.get("return_num_input_tokens")),
        return_num_output_tokens=cast("bool | None", given.get("return_num_output_tokens")),
    )


def _check_together(given: Mapping[str, Value], limits: FrontLimits) -> None:
    if ("text_input" in given) == ("messages" in given):
        problem = "and messages are both given" if "text_input" in given else "and messages are both missing"
        raise InvalidRequest("text_input", problem, hint="send exactly one of them")
    for name in ("text_input", "messages"):
        if given.get(name) == "":
            raise InvalidRequest(name, "is empty", hint="send a prompt")
    if given.get("top_p") == 0:
        raise InvalidRequest(
            "top_p", "is 0", hint="it must be above 0; for greedy decoding send temperature 0"
        )
    if given.get("length_penalty", 1.0) not in (0.0, 1.0):
        raise InvalidRequest(
            "length_penalty",
            f"is {show(given['length_penalty'])}",
            hint="only 0 or 1: it acts on beam search alone",
        )
    for name in ("stop_words", "bad_words"):
        words = cast("tuple[str, ...]", given.get(name, ()))
        _check_words(name, len(words), max((len(word.encode()) for word in words), default=0), limits)


def _check_words(name: str, count: int, longest: int, limits: FrontLimits) -> None:
    if count > limits.max_stop_words:
        raise InvalidRequest(name, f"has {count} words", hint=f"at most {limits.max_stop_words} are allowed")
    if longest > limits.max_stop_word_bytes:
        raise InvalidRequest(
            name, f"has a word of {longest} bytes", hint=f"at most {limits.max_stop_word_bytes} are allowed"
        )


def _words(given: Mapping[str, Value], name: str) -> tuple[str, ...]:
    # Upstream documents `"bad_words": ""` for none.
    return tuple(dict.fromkeys(word for word in cast("tuple[str, ...]", given.get(name, ())) if word))


def _sampling(given: Mapping[str, Value], defaults: SamplingDefaults) -> Sampling:
    """The request's settings over the checkpoint's. `preparation` fills in what depends on the engine."""

    def setting(name: str, default: float) -> Any:
        return given.get(name, default)

    top_k = setting("top_k", defaults.top_k)
    # A request that narrows the choice means to sample, though the checkpoint's own default is greedy.
    samples = any(name in given for name in _SAMPLERS) or not defaults.greedy
    temperature = setting("temperature", defaults.temperature if samples else 0.0)
    seed = given.get("seed")
    end_id = given.get("end_id")
    return Sampling(
        max_tokens=0,
        min_tokens=setting("min_tokens", 0),
        temperature=0.0 if top_k == 1 else float(temperature),
        top_k=top_k,
        top_p=float(setting("top_p", defaults.top_p)),
        min_p=float(setting("min_p", defaults.min_p)),
        repetition_penalty=float(setting("repetition_penalty", defaults.repetition_penalty)),
        presence_penalty=float(setting("presence_penalty", 0.0)),
        frequency_penalty=float(setting("frequency_penalty", 0.0)),
        seed=None if seed is None else cast(int, seed),
        stop_token_ids=() if end_id is None else (cast(int, end_id),),
        bad_token_sequences=(),
        logprobs=bool(given.get("return_log_probs", False)),
    )
