"""The one table of tensors. Every config.pbtxt, every check of a request and every refusal is derived from
it.

All inputs are optional: Triton compares only the number of inputs an ensemble got with the number it
requires, and a request that lacks a required one hangs for ever. With max_batch_size 1 a scalar is [1, 1] on
the wire and a list [1, n]. `text_output` is [1]: upstream's client reads it as `as_numpy("text_output")[0]`.
"""

from __future__ import annotations

from dataclasses import dataclass

INT32_MAX = 2**31 - 1
UINT64_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the wire.

    data_type: Triton's name. dims: without the batch dimension; -1 = any length.
    low, high: bounds of a number, both allowed. setting: may also be given in `sampling_parameters`.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    meaning: str
    low: float | None = None
    high: float | None = None
    setting: bool = True

    @property
    def is_list(self) -> bool:
        return self.dims != (1,)


def _text(name: str, meaning: str) -> Tensor:
    return Tensor(name, "TYPE_STRING", (1,), meaning, setting=False)


def _words(name: str, meaning: str) -> Tensor:
    return Tensor(name, "TYPE_STRING", (-1,), meaning)


def _integer(name: str, low: int, high: int, meaning: str, data_type: str = "TYPE_INT32") -> Tensor:
    return Tensor(name, data_type, (1,), meaning, low, high)


def _number(name: str, low: float, high: float, meaning: str) -> Tensor:
    return Tensor(name, "TYPE_FP32", (1,), meaning, low, high)


def _flag(name: str, meaning: str, *, setting: bool = False) -> Tensor:
    return Tensor(name, "TYPE_BOOL", (1,), meaning, setting=setting)


INPUTS: tuple[Tensor, ...] = (
    _text("text_input", "the prompt as it is; control tokens in it are read as such"),
    _text(
        "messages",
        "instead of text_input: a JSON list of {role, content}; the checkpoint's template is applied",
    ),
    _text("sampling_parameters", "a JSON object with any of the settings below"),
    _integer("max_tokens", 1, INT32_MAX, "tokens to generate at most, the end token included"),
    _integer("min_tokens", 0, INT32_MAX, "no end token before so many tokens"),
    _integer("min_length", 0, INT32_MAX, "another name of min_tokens"),
    _integer(
        "max_reasoning_tokens",
        0,
        INT32_MAX,
        "of a reasoning model: thinking is closed after so many tokens, within max_tokens",
    ),
    _flag("stream", "deltas as they are made; otherwise one response"),
    _number("temperature", 0.0, 100.0, "0 is greedy"),
    _number("top_p", 0.0, 1.0, "above 0; 1 is off"),
    _number("min_p", 0.0, 1.0, "0 is off"),
    _integer("top_k", 0, INT32_MAX, "0 is off, 1 is greedy"),
    _number("repetition_penalty", 0.01, 100.0, "1 is off"),
    _number("presence_penalty", -2.0, 2.0, "0 is off"),
    _number("frequency_penalty", -2.0, 2.0, "0 is off"),
    _number("length_penalty", 0.0, 1.0, "only 0 or 1: it acts on beam search, which is not served"),
    _integer("seed", 0, UINT64_MAX, "the same seed gives the same text", "TYPE_UINT64"),
    _words("stop_words", "generation ends before the first of them; empty ones are ignored"),
    _words("bad_words", "never generated; empty ones are ignored"),
    _integer("end_id", 0, INT32_MAX, "one more token id that ends generation"),
    _integer("pad_id", 0, INT32_MAX, "accepted for upstream's clients; nothing is padded on this wire"),
    _integer("beam_width", 1, 1, "beam search is not served"),
    _integer("num_return_sequences", 1, 1, "send several requests instead"),
    _flag(
        "exclude_input_in_output",
        "false: text_output begins with text_input when not streaming; default true",
    ),
    _flag("return_log_probs", "adds cum_log_probs and output_log_probs to every response"),
    _flag("return_perf_metrics", "adds the ten outputs of PERF_OUTPUTS to every response"),
    _flag("return_finish_reason", "false: leave it out of the last response"),
    _flag("return_num_input_tokens", "true: in every response; false: in none; default: in the last"),
    _flag("return_num_output_tokens", "true: in every response; false: in none; default: in the last"),
    _flag("cancel", "with the request id of running requests: ends them; needs no prompt"),
    Tensor(
        "cancel_key",
        "TYPE_UINT64",
        (1,),
        "a random number; a cancel with it ends those alone that came with it: request ids may repeat",
        0,
        UINT64_MAX,
        setting=False,
    ),
)


def _output(name: str, data_type: str, *dims: int) -> Tensor:
    return Tensor(name, data_type, dims, "")


OUTPUTS: tuple[Tensor, ...] = (
    _output("text_output", "TYPE_STRING", -1),
    _output("finish_reason", "TYPE_STRING", -1),
    _output("num_input_tokens", "TYPE_INT32", 1),
    _output("num_output_tokens", "TYPE_INT32", 1),
    _output("cum_log_probs", "TYPE_FP32", -1),
    _output("output_log_probs", "TYPE_FP32", -1, -1),
    _output("batch_index", "TYPE_INT32", 1),
    _output("sequence_index", "TYPE_INT32", 1),
    _output("arrival_time_ns", "TYPE_INT64", 1),
    _output("first_scheduled_time_ns", "TYPE_INT64", 1),
    _output("first_token_time_ns", "TYPE_INT64", 1),
    _output("last_token_time_ns", "TYPE_INT64", 1),
    _output("kv_cache_alloc_new_blocks", "TYPE_INT32", 1),
    _output("kv_cache_reused_blocks", "TYPE_INT32", 1),
    _output("kv_cache_alloc_total_blocks", "TYPE_INT32", 1),
    _output("acceptance_rate", "TYPE_FP32", 1),
    _output("total_accepted_draft_tokens", "TYPE_INT32", 1),
    _output("total_draft_tokens", "TYPE_INT32", 1),
)

INPUT: dict[str, Tensor] = {tensor.name: tensor for tensor in INPUTS}
OUTPUT: dict[str, Tensor] = {tensor.name: tensor for tensor in OUTPUTS}

PERF_OUTPUTS: tuple[str, ...] = (
    "arrival_time_ns",
    "first_scheduled_time_ns",
    "first_token_time_ns",
    "last_token_time_ns",
    "kv_cache_alloc_new_blocks",
    "kv_cache_reused_blocks",
    "kv_cache_alloc_total_blocks",
    "acceptance_rate",
    "total_accepted_draft_tokens",
    "total_draft_tokens",
)

VLLM_INPUTS: tuple[Tensor, ...] = tuple(
    INPUT[name]
    for name in (
        "text_input",
        "stream",
        "sampling_parameters",
        "exclude_input_in_output",
        "return_finish_reason",
        "return_num_input_tokens",
        "return_num_output_tokens",
        "max_tokens",
        "max_reasoning_tokens",
        "stop_words",
        "messages",
        "cancel",
        "cancel_key",
    )
)
VLLM_OUTPUTS: tuple[Tensor, ...] = tuple(
    OUTPUT[name] for name in ("text_output", "finish_reason", "num_input_tokens", "num_output_tokens")
)

UNARY_INPUTS: tuple[Tensor, ...] = tuple(
    tensor for tensor in INPUTS if tensor.name not in ("cancel", "cancel_key")
)
