"""What kind of model is it, and how does that kind want to be asked?

Tensor names, types and shapes always come from the model's own configuration; a dialect is only what the
configuration does not say. Sources: TensorRT-LLM's `all_models/inflight_batcher_llm` and `all_models/llmapi`,
vLLM's `vllm_backend/src/model.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from enginewright_client._exceptions import UnsupportedModel
from enginewright_client._models import ModelConfig

__all__ = ["Dialect", "choose_dialect"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one kind of model differs from Enginewright's own `llm`.

    stream: the input that asks for deltas. prefix, renamed: a setting's input or JSON member is its name in
    `SamplingParams`, renamed, with the prefix before it. flags: inputs that are always sent as true, as far
    as they are declared. as_json: settings that have no input go into `sampling_parameters`, always sent.
    greedy_by_top_k: temperature 0 is sent as top_k 1. top_k_off: what turns top_k off, 0 in our terms.
    cumulative: every text is the whole answer so far. counts_add_up: every response counts its own tokens.
    log_probs: how they come: `new` with their tokens, `cumulative`, or not at all.
    """

    name: str
    stream: str = "stream"
    prefix: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    as_json: bool = False
    greedy_by_top_k: bool = False
    top_k_off: int = 0
    cumulative: bool = False
    counts_add_up: bool = False
    log_probs: str = "new"

    def input_of(self, setting: str) -> str:
        """The name of a setting's input, or of its member in `sampling_parameters`."""
        return self.prefix + self.renamed.get(setting, setting)


_COUNTS = ("return_num_input_tokens", "return_num_output_tokens")

ENGINEWRIGHT = Dialect("Enginewright's wire contract")

TENSORRT_LLM = Dialect(
    "TensorRT-LLM's ensemble",
    flags=("exclude_input_in_output", *_COUNTS),
    greedy_by_top_k=True,
    counts_add_up=True,
    log_probs="cumulative",
)

LLM_API = Dialect(
    "TensorRT-LLM's LLM API model",
    stream="streaming",
    prefix="sampling_param_",
    renamed={"stop_words": "stop"},
    flags=("sampling_param_exclude_input_from_output", "return_finish_reason"),
    greedy_by_top_k=True,
    cumulative=True,
    log_probs="none",
)

VLLM = Dialect(
    "vLLM's Triton backend",
    renamed={"stop_words": "stop"},
    flags=("exclude_input_in_output", "return_finish_reason", *_COUNTS),
    as_json=True,
    top_k_off=-1,
    counts_add_up=True,
    log_probs="none",
)


def choose_dialect(config: ModelConfig) -> Dialect:
    """The dialect of a model, by its tensors. Raises UnsupportedModel, listing them."""
    inputs = config.inputs
    if "text_input" in inputs and "text_output" in config.outputs:
        if "messages" in inputs:
            return replace(ENGINEWRIGHT, as_json="sampling_parameters" in inputs)
        if "streaming" in inputs:
            return LLM_API
        if "sampling_parameters" in inputs:
            return VLLM
        if "max_tokens" in inputs:
            # A BLS model that detokenizes the whole answer again and again, to join characters.
            whole = config.parameters.get("accumulate_tokens", "").lower() == "true"
            return replace(TENSORRT_LLM, cumulative=whole)
    hint = "ask for a model with text_input and text_output"
    if "input_ids" in inputs:
        hint = "it takes token ids: ask for the model in front of it, `ensemble` or `tensorrt_llm_bls`"
    raise UnsupportedModel(
        f"model {config.name} is none that this client knows: inputs {_names(inputs)};"
        f" outputs {_names(config.outputs)}",
        code="unsupported-model",
        hint=hint,
        field="model",
    )


def _names(tensors: Mapping[str, object]) -> str:
    return ", ".join(sorted(tensors)) or "none"
