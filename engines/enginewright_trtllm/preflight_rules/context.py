"""Can the promised context be served, with the right positions."""

from __future__ import annotations

from collections.abc import Iterator

from enginewright_model import ModelSpec

from enginewright_trtllm.finding import Finding, error, warning
from enginewright_trtllm.target import TrtllmTarget, Variant, Yarn

__all__ = [
    "check_checkpoint_scaling",
    "check_chunked_context",
    "check_native_reach",
    "check_rope_theta",
    "check_short_texts",
    "check_yarn",
]

_QWEN2_THETA = 10_000.0


def check_yarn(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """YaRN is complete and reaches the promise."""
    for variant in target.variants:
        if variant.yarn is not None:
            yield from _check_yarn(variant, variant.yarn, dims)


def check_native_reach(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """Without scaling, no more positions than the model was made for."""
    for variant in target.variants:
        if variant.yarn is None and variant.max_seq_len > dims.max_position_embeddings:
            yield error(
                "context-beyond-model",
                "run",
                f"{variant.name}: max_seq_len {variant.max_seq_len} above max_position_embeddings"
                f" {dims.max_position_embeddings}",
                "the rotary table has that many rows; positions past its end get no angle of their own",
                "Promise less, or give the variant YaRN.",
            )


def check_short_texts(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """Static YaRN is applied to short texts too."""
    del dims
    if all(variant.yarn is not None for variant in target.variants):
        yield warning(
            "yarn-only",
            "run",
            "every variant has YaRN",
            "the factor is applied whatever the length; 12.5 points of Arena-Hard were lost that way",
            "Add a native variant for short requests, or accept it where all texts are long.",
        )


def check_checkpoint_scaling(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """A native variant of a checkpoint that already carries a scaling."""
    if dims.rope.rope_type == "yarn" and any(variant.yarn is None for variant in target.variants):
        yield warning(
            "yarn-in-checkpoint",
            "run",
            f"the checkpoint's config carries rope_scaling {dims.rope.scaling}",
            "a native variant is written without it, but calibration and verification read the checkpoint",
            "Remove rope_scaling from config.json and let the recipe give the long variant YaRN.",
        )


def check_chunked_context(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """Prompts longer than one step need chunked context."""
    del dims
    longest = max(variant.max_seq_len for variant in target.variants)
    if not target.chunked_context and target.max_num_tokens < longest:
        yield error(
            "chunked-context-off",
            "run",
            f"chunked_context is off with max_num_tokens {target.max_num_tokens} and max_seq_len {longest}",
            f"prompts above {target.max_num_tokens} tokens are refused, whatever max_seq_len promises",
            "Turn chunked_context on (upstream's default is off), or raise max_num_tokens.",
        )
    if target.chunked_context and target.max_num_tokens % target.tokens_per_block:
        yield error(
            "chunk-blocks",
            "run",
            f"max_num_tokens {target.max_num_tokens} is not a multiple of tokens_per_block"
            f" {target.tokens_per_block}",
            "chunks end on block boundaries",
            f"Use {-(-target.max_num_tokens // target.tokens_per_block) * target.tokens_per_block}.",
        )


def check_rope_theta(target: TrtllmTarget, dims: ModelSpec) -> Iterator[Finding]:
    """10000 is what readers fall back to when a config of transformers 5 hides its theta."""
    del target
    if dims.qkv_bias and dims.rope.rope_theta == _QWEN2_THETA:
        yield warning(
            "rope-theta-default",
            "run",
            f"rope_theta = {dims.rope.rope_theta:g} in a Qwen2 model",
            "transformers 5 writes rope_parameters only, older readers then take 10000 without a word",
            "Compare with the model's card; Qwen2.5 and QwQ-32B have 1000000.",
        )


def _check_yarn(variant: Variant, yarn: Yarn, dims: ModelSpec) -> Iterator[Finding]:
    original = yarn.original_max_position_embeddings
    if original is None:
        yield error(
            "yarn-original",
            "run",
            f"{variant.name}: YaRN without original_max_position_embeddings",
            "TensorRT-LLM takes 4096 instead, which shifts frequencies by up to 61%",
            "Give it: 32768 for QwQ-32B and Qwen2.5.",
        )
        return
    if yarn.factor <= 1.0:
        yield error(
            "yarn-factor",
            "run",
            f"{variant.name}: YaRN factor {yarn.factor:g}",
            "a factor of 1 or less extends nothing",
            "Give the factor of the model's card, 4.0 for QwQ-32B, or drop YaRN.",
        )
    elif variant.max_seq_len > yarn.factor * original:
        yield error(
            "context-beyond-yarn",
            "run",
            f"{variant.name}: max_seq_len {variant.max_seq_len} above {yarn.factor:g} x {original}",
            "the scaling does not reach so far",
            f"Promise at most {int(yarn.factor * original)}, or raise the factor as the model's card allows.",
        )
    if original > dims.max_position_embeddings:
        yield error(
            "yarn-original-range",
            "run",
            f"{variant.name}: original_max_position_embeddings {original} above the model's"
            f" {dims.max_position_embeddings}",
            "it is the context of pre-training, which cannot be longer than what the checkpoint allows",
            "Take it from the model's card: 32768 for QwQ-32B.",
        )
