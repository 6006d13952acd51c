"""The `trtllm-build` command of a variant, every flag with the reason for its value.

Flags and interactions are those of TensorRT-LLM 1.1 and 1.2 (`commands/build.py`, `builder.py`,
`plugin/plugin.py`). What is left at upstream's default is left out, unless a user would ask for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from enginewright_trtllm.target import TrtllmTarget, Variant

__all__ = ["Flag", "build_command", "build_flags"]

# Up to so many sequences the FP8 GEMM plugin is faster than TensorRT's own kernels (upstream's guide).
_SMALL_BATCH = 4


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of the command."""

    name: str
    value: str
    reason: str


def build_command(
    target: TrtllmTarget,
    variant: Variant,
    *,
    checkpoint: str,
    output: str,
    timing_cache: str = "/tmp/model.cache",
) -> list[str]:
    """The command as an argument list. checkpoint, output: folders where it runs (a container's, usually).

    timing_cache: a file that may be written; upstream's default is `model.cache` in the working directory.
    """
    flags = build_flags(target, variant, checkpoint=checkpoint, output=output, timing_cache=timing_cache)
    return ["trtllm-build", *(part for flag in flags for part in (flag.name, flag.value))]


def build_flags(
    target: TrtllmTarget,
    variant: Variant,
    *,
    checkpoint: str,
    output: str,
    timing_cache: str = "/tmp/model.cache",
) -> tuple[Flag, ...]:
    """The flags in the order in which the command gives them."""
    return (
        Flag("--checkpoint_dir", checkpoint, f"rank files of the {variant.name} variant"),
        Flag("--output_dir", output, "rank{N}.engine and config.json"),
        *_size_flags(target, variant),
        *_cache_flags(target),
        *_kernel_flags(target),
        Flag(
            "--logits_dtype",
            target.logits_dtype,
            "must equal config.pbtxt's logits_datatype; given so that it cannot drift from the checkpoint",
        ),
        Flag(
            "--workers",
            str(target.build_workers),
            "ranks compiled at a time; upstream takes the smaller of this and the GPUs it sees",
        ),
        Flag("--output_timing_cache", timing_cache, "the default is written to the working directory"),
        Flag("--log_level", "info", "the progress is read from it"),
    )


def _size_flags(target: TrtllmTarget, variant: Variant) -> tuple[Flag, ...]:
    return (
        Flag("--max_batch_size", str(target.max_batch_size), "sequences that are decoded together"),
        Flag(
            "--max_num_tokens",
            str(target.max_num_tokens),
            "tokens of one step; prompts longer than this go in chunks. It sizes the activations",
        ),
        Flag(
            "--max_seq_len",
            str(variant.max_seq_len),
            "always given: without it upstream takes max_position_embeddings times the rotary factor",
        ),
        Flag("--max_beam_width", "1", "beam search is not served"),
    )


def _cache_flags(target: TrtllmTarget) -> tuple[Flag, ...]:
    return (
        Flag(
            "--kv_cache_type", "paged", "blocks instead of one buffer a sequence; in-flight batching needs it"
        ),
        Flag("--tokens_per_block", str(target.tokens_per_block), "the unit of KV reuse and of chunks"),
        Flag(
            "--remove_input_padding", "enable", "sequences of a step are packed; in-flight batching needs it"
        ),
    )


def _kernel_flags(target: TrtllmTarget) -> tuple[Flag, ...]:
    paged = target.chunked_context or target.kv_reuse
    return (
        Flag(
            "--gpt_attention_plugin",
            "auto",
            "the attention kernels that know a paged cache, in the model's type",
        ),
        Flag("--context_fmha", "enable", "fused attention for prompts: memory linear in the prompt's length"),
        Flag(
            "--use_paged_context_fmha",
            "enable" if paged else "disable",
            "chunked context and KV reuse read earlier blocks of the same prompt through it",
        ),
        _fp8_context_fmha(target),
        _gemm_plugin(target),
        _multiple_profiles(target),
    )


def _fp8_context_fmha(target: TrtllmTarget) -> Flag:
    name = "--use_fp8_context_fmha"
    if target.format == "fp8" and target.fp8_kv:
        return Flag(name, "enable", "weights and KV cache are FP8, so prompts are attended in FP8 too")
    if target.format == "fp8":
        return Flag(name, "disable", "with paged attention it needs an FP8 KV cache, which stays BF16 here")
    return Flag(name, "disable", f"only for FP8 weights, not {target.format}")


def _gemm_plugin(target: TrtllmTarget) -> Flag:
    name = "--gemm_plugin"
    if target.format == "fp8" and target.max_batch_size <= _SMALL_BATCH:
        return Flag(name, "fp8", f"faster for the FP8 linears up to a batch of {_SMALL_BATCH}")
    if target.format == "fp8":
        return Flag(
            name, "auto", "cuBLASLt for the BF16 lm_head; the FP8 linears stay with TensorRT's kernels"
        )
    if target.format == "int4_awq":
        return Flag(name, "auto", "cuBLASLt for the BF16 lm_head; AWQ linears have a plugin of their own")
    return Flag(name, "auto", "cuBLASLt for every linear: faster and smaller than TensorRT's own in BF16")


def _multiple_profiles(target: TrtllmTarget) -> Flag:
    name = "--multiple_profiles"
    if target.format == "fp8":
        return Flag(name, "enable", "TensorRT picks FP8 kernels per size of step; builds longer")
    return Flag(name, "disable", "the linears are plugins, which choose their kernel by themselves")
