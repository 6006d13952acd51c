"""Every parameter of the C++ model, with the value that is set and why.

All values are strings. An empty one reads as "not given" where the backend has a default; three of the
guided-decoding ones must be there even so, because the backend throws without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from enginewright_trtllm.device_memory import DeviceMemory
from enginewright_trtllm.target import TrtllmTarget, Variant

__all__ = ["Parameter", "backend_parameters"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One entry of config.pbtxt's parameters."""

    name: str
    value: str
    reason: str


def backend_parameters(
    target: TrtllmTarget, variant: Variant, memory: DeviceMemory, *, repository: str
) -> tuple[Parameter, ...]:
    """Parameters in upstream's order. repository: where the server sees the model repository."""
    engine = PurePosixPath(repository) / target.model_name(variant) / "1" / "engine"
    return (
        Parameter("max_beam_width", "1", "beam search is not served"),
        Parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no", "upstream's; inputs may come from either side"),
        Parameter("gpt_model_type", "inflight_fused_batching", "prompts and decode steps share a batch"),
        Parameter("gpt_model_path", str(engine), "absolute: it is looked up from the working directory"),
        Parameter("encoder_model_path", "", "decoder only"),
        *_kv_cache(target, variant, memory),
        Parameter("exclude_input_in_output", "true", "upstream's default echoes the prompt"),
        Parameter(
            "cancellation_check_period_ms", "10", "a cancelled request frees its slot within a step or two"
        ),
        Parameter("stats_check_period_ms", "100", "upstream's; the metrics are scraped less often"),
        Parameter("iter_stats_max_iterations", "1000", "upstream's"),
        Parameter("request_stats_max_iterations", "0", "nothing reads them, and they grow with requests"),
        Parameter(
            "enable_kv_cache_reuse",
            _flag(target.kv_reuse),
            "a second turn of a chat skips the prompt that it shares with the first",
        ),
        Parameter("normalize_log_probs", "false", "log probabilities are the model's own"),
        Parameter(
            "enable_chunked_context",
            _flag(target.chunked_context),
            "prompts above max_num_tokens go in chunks; upstream's default refuses them",
        ),
        *_placement(target, variant, memory),
        *_lora(),
        *_decoding(),
        *_runtime(),
        Parameter("tokenizer_dir", "", "guided decoding is off, but the backend throws without the key"),
        Parameter("guided_decoding_backend", "", "off; the backend throws without the key"),
        Parameter("xgrammar_tokenizer_info_path", "", "off; the backend throws without the key"),
    )


def _kv_cache(target: TrtllmTarget, variant: Variant, memory: DeviceMemory) -> tuple[Parameter, ...]:
    shared = memory.placement == "shared"
    tokens = next(item.kv_tokens for item in memory.variants if item.variant == variant)
    return (
        Parameter(
            "max_tokens_in_paged_kv_cache",
            str(tokens) if shared else "",
            "its share of GPUs that another model is on too: by fraction, the first to load would take most"
            if shared
            else "no limit but the fraction below",
        ),
        Parameter("max_attention_window_size", "", "every token is attended to"),
        Parameter("sink_token_length", "", "no attention window, no sinks"),
        Parameter(
            "batch_scheduler_policy",
            "guaranteed_no_evict",
            "a request that has started is never paused, which long reasoning would be again and again",
        ),
        Parameter(
            "kv_cache_free_gpu_mem_fraction",
            f"{target.kv_cache_free_gpu_mem_fraction:g}",
            "of what is free once the engine is loaded",
        ),
        Parameter("cross_kv_cache_fraction", "", "decoder only"),
        Parameter(
            "kv_cache_host_memory_bytes",
            str(target.kv_cache_host_bytes),
            "blocks kept in host memory for reuse",
        ),
        Parameter("kv_cache_onboard_blocks", "true", "blocks come back from the host before they are read"),
    )


def _placement(target: TrtllmTarget, variant: Variant, memory: DeviceMemory) -> tuple[Parameter, ...]:
    if memory.placement == "alone":
        devices, reason = "", "all visible GPUs, in order of rank"
    else:
        first = 0
        if memory.placement == "separate":
            first = target.variants.index(variant) * target.world_size
        devices = ",".join(str(first + rank) for rank in range(target.world_size))
        reason = f"the GPUs of the {variant.name} variant"
    return (
        Parameter("gpu_device_ids", devices, reason),
        Parameter("participant_ids", "", "ranks are spawned or follow mpirun's order"),
        Parameter("num_nodes", str(target.nodes), "MPI nodes of the engine"),
    )


def _lora() -> tuple[Parameter, ...]:
    return (
        Parameter("lora_cache_optimal_adapter_size", "8", "upstream's; engines here have no LoRA plugin"),
        Parameter("lora_cache_max_adapter_size", "64", "upstream's"),
        Parameter("lora_cache_gpu_memory_fraction", "0.05", "upstream's"),
        Parameter("lora_cache_host_memory_bytes", "1073741824", "upstream's"),
        Parameter("lora_prefetch_dir", "", "nothing to prefetch"),
    )


def _decoding() -> tuple[Parameter, ...]:
    return (
        Parameter("decoding_mode", "top_k_top_p", "each request chooses; greedy is top_k 1"),
        Parameter(
            "executor_worker_path",
            "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
            "where the container has it; orchestrator mode starts it",
        ),
        Parameter("lookahead_window_size", "", "no speculation"),
        Parameter("lookahead_ngram_size", "", "no speculation"),
        Parameter("lookahead_verification_set_size", "", "no speculation"),
        Parameter("medusa_choices", "", "any value would switch the decoding mode to Medusa"),
        Parameter("eagle_choices", "", "any value would switch the decoding mode to EAGLE"),
    )


def _runtime() -> tuple[Parameter, ...]:
    return (
        Parameter(
            "gpu_weights_percent", "1.0", "all weights on the GPU; engines are built without streaming"
        ),
        Parameter("enable_context_fmha_fp32_acc", "false", "BF16 attention accumulates in FP32 anyway"),
        Parameter("multi_block_mode", "true", "long contexts of few sequences keep the whole GPU busy"),
        Parameter("cuda_graph_mode", "false", "upstream's; graphs take memory that the plan does not count"),
        Parameter("cuda_graph_cache_size", "0", "no graphs"),
        Parameter("speculative_decoding_fast_logits", "false", "no speculation"),
    )


def _flag(value: bool) -> str:
    return "true" if value else "false"
