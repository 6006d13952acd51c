"""Every tensor of the C++ model `tensorrt_llm`, as TensorRT-LLM 1.2's backend declares them.

Dims are without the batch dimension. A scalar is [1] on the wire and reshaped to no dimension behind it;
ragged tensors are packed instead of padded when Triton batches. The backend addresses tensors by name: one
that is not declared here can neither be sent nor asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["INPUTS", "LOGITS", "OUTPUTS", "Tensor"]

# Stands for the type of the engine's logits.
LOGITS = "LOGITS"


@dataclass(frozen=True, slots=True)
class Tensor:
    """scalar: reshaped from [1] to []. ragged: allow_ragged_batch."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = True
    ragged: bool = False
    scalar: bool = False


def _scalars(data_type: str, *names: str) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, data_type, (1,), scalar=True) for name in names)


def _ragged(data_type: str, dims: tuple[int, ...], *names: str) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, data_type, dims, ragged=True) for name in names)


def _required(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(replace(tensor, optional=False) for tensor in tensors)


INPUTS: tuple[Tensor, ...] = (
    *_ragged("TYPE_INT32", (-1,), "input_ids"),
    *_ragged("TYPE_FP16", (-1, -1), "encoder_input_features"),
    *_scalars("TYPE_INT32", "encoder_output_lengths"),
    *_required(*_scalars("TYPE_INT32", "input_lengths", "request_output_len")),
    *_scalars("TYPE_INT32", "num_return_sequences"),
    *_ragged("TYPE_INT32", (-1,), "draft_input_ids", "decoder_input_ids"),
    *_scalars("TYPE_INT32", "decoder_input_lengths"),
    *_ragged(LOGITS, (-1, -1), "draft_logits"),
    *_scalars("TYPE_FP32", "draft_acceptance_threshold"),
    *_scalars("TYPE_INT32", "end_id", "pad_id"),
    *_ragged("TYPE_INT32", (2, -1), "stop_words_list", "bad_words_list"),
    *_ragged("TYPE_FP32", (-1,), "embedding_bias"),
    *_scalars("TYPE_INT32", "beam_width"),
    *_scalars("TYPE_FP32", "temperature"),
    *_scalars("TYPE_INT32", "runtime_top_k"),
    *_scalars("TYPE_FP32", "runtime_top_p", "runtime_top_p_min", "runtime_top_p_decay"),
    *_scalars("TYPE_INT32", "runtime_top_p_reset_ids"),
    *_scalars("TYPE_FP32", "len_penalty"),
    *_scalars("TYPE_BOOL", "early_stopping"),
    *_scalars("TYPE_FP32", "repetition_penalty"),
    *_scalars("TYPE_INT32", "min_tokens"),
    *_scalars("TYPE_FP32", "beam_search_diversity_rate", "presence_penalty", "frequency_penalty"),
    *_scalars("TYPE_UINT64", "seed"),
    *_scalars(
        "TYPE_BOOL",
        "return_log_probs",
        "return_context_logits",
        "return_generation_logits",
        "return_perf_metrics",
        "return_num_input_tokens",
        "return_num_output_tokens",
        "exclude_input_in_output",
        "stop",
        "streaming",
    ),
    *_ragged("TYPE_FP16", (-1, -1), "prompt_embedding_table"),
    *_ragged("TYPE_UINT64", (-1,), "prompt_table_extra_ids"),
    *_scalars("TYPE_INT32", "prompt_vocab_size"),
    *_ragged("TYPE_BOOL", (-1, -1), "cross_attention_mask"),
    Tensor("mrope_rotary_cos_sin", "TYPE_FP32", (-1,)),
    Tensor("mrope_position_deltas", "TYPE_INT64", (1,)),
    *_scalars("TYPE_UINT64", "lora_task_id"),
    *_ragged("TYPE_FP16", (-1, -1), "lora_weights"),
    *_ragged("TYPE_INT32", (-1, 3), "lora_config"),
    *_ragged("TYPE_UINT8", (-1,), "context_phase_params"),
    *_ragged("TYPE_BOOL", (1,), "skip_cross_attn_blocks"),
    *_ragged(
        "TYPE_INT32",
        (-1,),
        "retention_token_range_starts",
        "retention_token_range_ends",
        "retention_token_range_priorities",
        "retention_token_range_durations_ms",
    ),
    *_ragged("TYPE_INT32", (1,), "retention_decode_priority", "retention_decode_duration_ms"),
    *_ragged("TYPE_STRING", (1,), "guided_decoding_guide_type", "guided_decoding_guide"),
    *_ragged(
        "TYPE_INT32",
        (1,),
        "lookahead_window_size",
        "lookahead_ngram_size",
        "lookahead_verification_set_size",
    ),
)


def _outputs(data_type: str, dims: tuple[int, ...], *names: str) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, data_type, dims, optional=False) for name in names)


OUTPUTS: tuple[Tensor, ...] = (
    *_outputs("TYPE_INT32", (-1, -1), "output_ids"),
    *_outputs("TYPE_INT32", (-1,), "sequence_length"),
    *_outputs("TYPE_FP32", (-1,), "cum_log_probs"),
    *_outputs("TYPE_FP32", (-1, -1), "output_log_probs"),
    *_outputs(LOGITS, (-1, -1), "context_logits"),
    *_outputs(LOGITS, (-1, -1, -1), "generation_logits"),
    *_outputs("TYPE_INT32", (1,), "batch_index", "sequence_index"),
    *_outputs("TYPE_UINT8", (-1,), "context_phase_params"),
    *_outputs(
        "TYPE_INT32",
        (1,),
        "kv_cache_alloc_new_blocks",
        "kv_cache_reused_blocks",
        "kv_cache_alloc_total_blocks",
    ),
    *_outputs(
        "TYPE_INT64",
        (1,),
        "arrival_time_ns",
        "first_scheduled_time_ns",
        "first_token_time_ns",
        "last_token_time_ns",
    ),
    *_outputs("TYPE_FP32", (1,), "acceptance_rate"),
    *_outputs(
        "TYPE_INT32",
        (1,),
        "total_accepted_draft_tokens",
        "total_draft_tokens",
        "num_input_tokens",
        "num_output_tokens",
    ),
)
