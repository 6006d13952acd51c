"""The C++ model's config.pbtxt: every tensor and parameter of upstream's, nothing left open, and Triton's own
schema reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from enginewright_errors import RecipeError
from enginewright_trtllm.device_memory import device_memory
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.triton_model import render_triton_model
from enginewright_trtllm.triton_parameters import backend_parameters
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from trtllm_targets import FP8, LONG, NATIVE, QWQ, TARGETS

# Transcribed from upstream's template, TensorRT-LLM 1.2: name, type, dims without the batch dimension, flags.
# The two types that its template leaves open beside the logits' are FP16 for a decoder without vision.
INPUTS = """
input_ids INT32 [-1] ragged
encoder_input_features FP16 [-1,-1] ragged
encoder_output_lengths INT32 [1] scalar
input_lengths INT32 [1] required scalar
request_output_len INT32 [1] required scalar
num_return_sequences INT32 [1] scalar
draft_input_ids INT32 [-1] ragged
decoder_input_ids INT32 [-1] ragged
decoder_input_lengths INT32 [1] scalar
draft_logits LOGITS [-1,-1] ragged
draft_acceptance_threshold FP32 [1] scalar
end_id INT32 [1] scalar
pad_id INT32 [1] scalar
stop_words_list INT32 [2,-1] ragged
bad_words_list INT32 [2,-1] ragged
embedding_bias FP32 [-1] ragged
beam_width INT32 [1] scalar
temperature FP32 [1] scalar
runtime_top_k INT32 [1] scalar
runtime_top_p FP32 [1] scalar
runtime_top_p_min FP32 [1] scalar
runtime_top_p_decay FP32 [1] scalar
runtime_top_p_reset_ids INT32 [1] scalar
len_penalty FP32 [1] scalar
early_stopping BOOL [1] scalar
repetition_penalty FP32 [1] scalar
min_tokens INT32 [1] scalar
beam_search_diversity_rate FP32 [1] scalar
presence_penalty FP32 [1] scalar
frequency_penalty FP32 [1] scalar
seed UINT64 [1] scalar
return_log_probs BOOL [1] scalar
return_context_logits BOOL [1] scalar
return_generation_logits BOOL [1] scalar
return_perf_metrics BOOL [1] scalar
return_num_input_tokens BOOL [1] scalar
return_num_output_tokens BOOL [1] scalar
exclude_input_in_output BOOL [1] scalar
stop BOOL [1] scalar
streaming BOOL [1] scalar
prompt_embedding_table FP16 [-1,-1] ragged
prompt_table_extra_ids UINT64 [-1] ragged
prompt_vocab_size INT32 [1] scalar
cross_attention_mask BOOL [-1,-1] ragged
mrope_rotary_cos_sin FP32 [-1]
mrope_position_deltas INT64 [1]
lora_task_id UINT64 [1] scalar
lora_weights FP16 [-1,-1] ragged
lora_config INT32 [-1,3] ragged
context_phase_params UINT8 [-1] ragged
skip_cross_attn_blocks BOOL [1] ragged
retention_token_range_starts INT32 [-1] ragged
retention_token_range_ends INT32 [-1] ragged
retention_token_range_priorities INT32 [-1] ragged
retention_token_range_durations_ms INT32 [-1] ragged
retention_decode_priority INT32 [1] ragged
retention_decode_duration_ms INT32 [1] ragged
guided_decoding_guide_type STRING [1] ragged
guided_decoding_guide STRING [1] ragged
lookahead_window_size INT32 [1] ragged
lookahead_ngram_size INT32 [1] ragged
lookahead_verification_set_size INT32 [1] ragged
"""
OUTPUTS = """
output_ids INT32 [-1,-1]
sequence_length INT32 [-1]
cum_log_probs FP32 [-1]
output_log_probs FP32 [-1,-1]
context_logits LOGITS [-1,-1]
generation_logits LOGITS [-1,-1,-1]
batch_index INT32 [1]
sequence_index INT32 [1]
context_phase_params UINT8 [-1]
kv_cache_alloc_new_blocks INT32 [1]
kv_cache_reused_blocks INT32 [1]
kv_cache_alloc_total_blocks INT32 [1]
arrival_time_ns INT64 [1]
first_scheduled_time_ns INT64 [1]
first_token_time_ns INT64 [1]
last_token_time_ns INT64 [1]
acceptance_rate FP32 [1]
total_accepted_draft_tokens INT32 [1]
total_draft_tokens INT32 [1]
num_input_tokens INT32 [1]
num_output_tokens INT32 [1]
"""
PARAMETERS = """
max_beam_width FORCE_CPU_ONLY_INPUT_TENSORS gpt_model_type gpt_model_path encoder_model_path
max_tokens_in_paged_kv_cache max_attention_window_size sink_token_length batch_scheduler_policy
kv_cache_free_gpu_mem_fraction cross_kv_cache_fraction kv_cache_host_memory_bytes
kv_cache_onboard_blocks exclude_input_in_output cancellation_check_period_ms stats_check_period_ms
iter_stats_max_iterations request_stats_max_iterations enable_kv_cache_reuse normalize_log_probs
enable_chunked_context gpu_device_ids participant_ids num_nodes lora_cache_optimal_adapter_size
lora_cache_max_adapter_size lora_cache_gpu_memory_fraction lora_cache_host_memory_bytes
lora_prefetch_dir decoding_mode executor_worker_path lookahead_window_size lookahead_ngram_size
lookahead_verification_set_size medusa_choices eagle_choices gpu_weights_percent
enable_context_fmha_fp32_acc multi_block_mode cuda_graph_mode cuda_graph_cache_size
speculative_decoding_fast_logits tokenizer_dir guided_decoding_backend xgrammar_tokenizer_info_path
"""
BOTH = TrtllmTarget("int4_awq", "H200-141", variants=(NATIVE, LONG))


def parsed(target: TrtllmTarget, variant: Any = None, **keywords: Any) -> Any:
    text = render_triton_model(target, variant or target.variants[0], QWQ, **keywords)
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def parameters(config: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


def transcribed(table: str, logits: str) -> list[tuple[str, str, list[int], set[str]]]:
    rows = []
    for line in table.split("\n"):
        if line:
            name, data_type, dims, *flags = line.split()
            lengths = [int(length) for length in dims.strip("[]").split(",")]
            rows.append((name, f"TYPE_{logits if data_type == 'LOGITS' else data_type}", lengths, set(flags)))
    return rows


def declared(tensor: Any) -> tuple[str, str, list[int]]:
    return tensor.name, model_config_pb2.DataType.Name(tensor.data_type), list(tensor.dims)


@pytest.mark.parametrize(("logits_dtype", "logits"), [("float16", "FP16"), ("float32", "FP32")])
def test_every_tensor_is_upstreams_in_name_type_and_shape(logits_dtype: Any, logits: str) -> None:
    config = parsed(replace(FP8, logits_dtype=logits_dtype))
    inputs = []
    for tensor in config.input:
        flags = {"ragged"} if tensor.allow_ragged_batch else set()
        flags |= set() if tensor.optional else {"required"}
        if tensor.HasField("reshape"):
            assert list(tensor.reshape.shape) == []
            flags |= {"scalar"}
        inputs.append((*declared(tensor), flags))
    assert inputs == transcribed(INPUTS, logits)
    assert [(*declared(tensor), set()) for tensor in config.output] == transcribed(OUTPUTS, logits)


@pytest.mark.parametrize("name", TARGETS)
def test_every_parameter_is_set_on_purpose(name: str) -> None:
    target = TARGETS[name]
    for variant in target.variants:
        assert sorted(parameters(parsed(target, variant))) == sorted(PARAMETERS.split())
        given = backend_parameters(target, variant, device_memory(target, QWQ), repository="/models")
        assert [parameter.name for parameter in given] == PARAMETERS.split()
        assert all(parameter.reason for parameter in given)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_left_open(name: str) -> None:
    target = TARGETS[name]
    for variant in target.variants:
        assert "${" not in render_triton_model(target, variant, QWQ)


def test_requests_stream_are_batched_in_flight_and_wait_in_a_bounded_queue() -> None:
    config = parsed(replace(FP8, max_batch_size=24, max_queue_size=99))
    assert (config.name, config.backend, config.max_batch_size) == ("tensorrt_llm", "tensorrtllm", 24)
    assert config.model_transaction_policy.decoupled
    assert list(config.dynamic_batching.preferred_batch_size) == [24]
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 99
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
    values = parameters(config)
    assert values["gpt_model_type"] == "inflight_fused_batching"
    assert values["enable_chunked_context"] == values["enable_kv_cache_reuse"] == "true"
    assert values["exclude_input_in_output"] == "true"
    assert values["kv_cache_free_gpu_mem_fraction"] == "0.9"


def test_what_the_target_turns_off_is_off() -> None:
    values = parameters(
        parsed(replace(FP8, chunked_context=False, kv_reuse=False, kv_cache_host_bytes=2**30))
    )
    assert values["enable_chunked_context"] == values["enable_kv_cache_reuse"] == "false"
    assert values["kv_cache_host_memory_bytes"] == str(2**30)


def test_the_engine_is_found_by_an_absolute_path_below_the_mount() -> None:
    assert parameters(parsed(FP8))["gpt_model_path"] == "/models/tensorrt_llm/1/engine"
    values = parameters(parsed(FP8, repository='/data/my "models"'))
    assert values["gpt_model_path"] == '/data/my "models"/tensorrt_llm/1/engine'


def test_a_model_alone_may_fill_the_cache_and_choose_its_gpus() -> None:
    values = parameters(parsed(FP8))
    assert values["max_tokens_in_paged_kv_cache"] == values["gpu_device_ids"] == ""


def test_models_on_the_same_gpus_each_get_their_tokens() -> None:
    native, long = (parsed(BOTH, variant) for variant in BOTH.variants)
    assert (native.name, long.name) == ("tensorrt_llm", "tensorrt_llm_long")
    shares = [int(parameters(config)["max_tokens_in_paged_kv_cache"]) for config in (native, long)]
    assert shares == [item.kv_tokens for item in device_memory(BOTH, QWQ).variants]
    assert parameters(native)["gpu_device_ids"] == parameters(long)["gpu_device_ids"] == "0"


def test_models_with_gpus_of_their_own_name_them() -> None:
    target = replace(BOTH, gpu="H100-80", gpu_count=4, tp=2)
    native, long = (parameters(parsed(target, variant)) for variant in target.variants)
    assert (native["gpu_device_ids"], long["gpu_device_ids"]) == ("0,1", "2,3")
    assert native["max_tokens_in_paged_kv_cache"] == ""


def test_an_engine_over_nodes_says_how_many() -> None:
    target = replace(FP8, gpu_count=16, tp=8, pp=2, nodes=2)
    assert parameters(parsed(target))["num_nodes"] == "2"


def test_an_unknown_gpu_is_refused_before_anything_is_rendered() -> None:
    with pytest.raises(RecipeError, match="TPU"):
        parsed(replace(FP8, gpu="TPU"))
