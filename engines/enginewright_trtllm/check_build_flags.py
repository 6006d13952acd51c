"""Looks over a `trtllm-build` command line that somebody wrote by hand or changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from enginewright_trtllm.finding import Finding, error, warning
from enginewright_trtllm.target import TrtllmTarget

__all__ = ["check_build_flags"]

_REMOVED = (
    "--max_output_len",
    "--use_custom_all_reduce",
    "--strongly_typed",
    "--use_context_fmha_for_generation",
    "--enable_xqa",
    "--auto_parallel",
    "--gpus_per_node",
    "--cluster_key",
    "--builder_opt",
    "--tp_size",
    "--pp_size",
)
_IN_FLIGHT = ("--context_fmha", "--remove_input_padding", "--gpt_attention_plugin")


def check_build_flags(command: Sequence[str], target: TrtllmTarget) -> tuple[Finding, ...]:
    """Findings about the flags of a command; `--flag value` and `--flag=value` are both read."""
    flags = _parse(command)
    return (
        *_removed(flags),
        *_sizes(flags),
        *_conflicts(flags),
        *_attention(flags, target),
    )


def _parse(command: Sequence[str]) -> dict[str, str]:
    flags: dict[str, str] = {}
    name = ""
    for part in command:
        if part.startswith("--"):
            name, separator, value = part.partition("=")
            name = name.replace("-", "_").replace("__", "--", 1)
            flags[name] = value if separator else ""
        elif name:
            flags[name] = part
            name = ""
    return flags


def _removed(flags: dict[str, str]) -> Iterator[Finding]:
    for name in _REMOVED:
        if name in flags:
            yield error(
                "flag-removed",
                "build",
                f"{name} {flags[name]}".rstrip(),
                "trtllm-build 1.x has no such flag: sizes and mapping come from the checkpoint",
                "Leave it out.",
            )
    if "--paged_kv_cache" in flags:
        yield warning(
            "flag-deprecated", "build", "--paged_kv_cache", "it is deprecated", "Use --kv_cache_type paged."
        )


def _sizes(flags: dict[str, str]) -> Iterator[Finding]:
    if "--build_config" in flags:
        yield warning(
            "flag-build-config",
            "run",
            f"--build_config {flags['--build_config']}",
            'it replaces every size flag, and in its plugin_config the string "disable" counts as true',
            "Give flags instead, or real booleans in the file.",
        )
    elif not flags.get("--max_seq_len") and not flags.get("--max_decoder_seq_len"):
        yield error(
            "flag-max-seq-len",
            "run",
            "--max_seq_len is missing",
            "upstream takes max_position_embeddings times the rotary factor: 524288 for QwQ-32B with YaRN",
            "Give --max_seq_len.",
        )
    if "--max_input_len" in flags:
        yield warning(
            "flag-max-input-len",
            "run",
            f"--max_input_len {flags['--max_input_len']}",
            "it is ignored with packed input and fused attention",
            "Limit prompts by --max_seq_len, and steps by --max_num_tokens.",
        )


def _conflicts(flags: dict[str, str]) -> Iterator[Finding]:
    if flags.get("--multiple_profiles") == "enable" and "--opt_num_tokens" in flags:
        yield error(
            "flag-opt-num-tokens",
            "build",
            "--opt_num_tokens with --multiple_profiles enable",
            "upstream refuses the pair",
            "Drop --opt_num_tokens: each profile has its own optimum.",
        )
    if flags.get("--gemm_allreduce_plugin") == "auto":
        yield error(
            "flag-gemm-allreduce",
            "build",
            "--gemm_allreduce_plugin auto",
            "upstream refuses auto for this plugin",
            "Use bfloat16, or disable.",
        )
    if flags.get("--workers") == "0":
        yield error(
            "flag-workers",
            "build",
            "--workers 0",
            'the builder fails with "max_workers must be greater than 0"',
            "Use as many workers as ranks.",
        )


def _attention(flags: dict[str, str], target: TrtllmTarget) -> Iterator[Finding]:
    for name in _IN_FLIGHT:
        if flags.get(name) == "disable":
            yield error(
                "flag-in-flight",
                "load",
                f"{name} disable",
                "in-flight batching needs it",
                f"Set {name} enable.",
            )
    if flags.get("--kv_cache_type", "paged") != "paged":
        yield error(
            "flag-kv-cache-type",
            "load",
            f"--kv_cache_type {flags['--kv_cache_type']}",
            "in-flight batching needs a paged KV cache",
            "Use --kv_cache_type paged.",
        )
    if flags.get("--use_paged_context_fmha") == "disable" and (target.chunked_context or target.kv_reuse):
        yield error(
            "flag-paged-fmha",
            "run",
            "--use_paged_context_fmha disable with chunked context or KV reuse",
            "both read earlier blocks through paged attention; prompts are then limited to max_num_tokens",
            "Enable it, or turn chunked_context and kv_reuse off.",
        )
    if flags.get("--use_fp8_context_fmha") == "enable" and not (target.format == "fp8" and target.fp8_kv):
        yield warning(
            "flag-fp8-fmha",
            "run",
            f"--use_fp8_context_fmha enable with {target.format} and fp8_kv {target.fp8_kv}",
            "the builder turns it off without FP8 weights, and paged attention needs an FP8 cache with it",
            "Disable it, or use fp8 with fp8_kv.",
        )
