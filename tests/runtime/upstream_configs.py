"""What the text models of TensorRT-LLM and vLLM declare: names, types, shapes, and what is required.

Sources: TensorRT-LLM 1.2, `triton_backend/all_models/{inflight_batcher_llm,llmapi}`; vLLM's Triton backend,
`src/model.py` (2026-06).
"""

from __future__ import annotations

STRING, INT32, INT64, UINT32 = "STRING", "INT32", "INT64", "UINT32"
UINT64, FP32, BOOL = "UINT64", "FP32", "BOOL"
_TIMES = {
    "arrival_time_ns": (INT64, 1),
    "first_scheduled_time_ns": (INT64, 1),
    "first_token_time_ns": (INT64, 1),
    "last_token_time_ns": (INT64, 1),
}

ENSEMBLE_INPUTS = {
    "text_input": (STRING, 1),
    "decoder_text_input": (STRING, 1),
    "max_tokens": (INT32, 1),
    "num_return_sequences": (INT32, 1),
    "bad_words": (STRING, -1),
    "stop_words": (STRING, -1),
    "exclude_input_in_output": (BOOL, 1),
    "end_id": (INT32, 1),
    "pad_id": (INT32, 1),
    "top_k": (INT32, 1),
    "top_p": (FP32, 1),
    "temperature": (FP32, 1),
    "length_penalty": (FP32, 1),
    "repetition_penalty": (FP32, 1),
    "min_tokens": (INT32, 1),
    "presence_penalty": (FP32, 1),
    "frequency_penalty": (FP32, 1),
    "seed": (UINT64, 1),
    "return_log_probs": (BOOL, 1),
    "return_context_logits": (BOOL, 1),
    "return_generation_logits": (BOOL, 1),
    "return_perf_metrics": (BOOL, 1),
    "return_num_input_tokens": (BOOL, 1),
    "return_num_output_tokens": (BOOL, 1),
    "beam_width": (INT32, 1),
    "stream": (BOOL, 1),
    "prompt_vocab_size": (INT32, 1),
    "lora_task_id": (UINT64, 1),
}
ENSEMBLE_OUTPUTS = {
    "text_output": (STRING, -1),
    "cum_log_probs": (FP32, -1),
    "output_log_probs": (FP32, -1),
    "batch_index": (INT32, 1),
    "sequence_index": (INT32, 1),
    **_TIMES,
    "num_input_tokens": (INT32, 1),
    "num_output_tokens": (INT32, 1),
}

LLM_API_INPUTS = {
    "text_input": (STRING, -1),
    "image_url": (STRING, -1),
    "streaming": (BOOL, 1),
    "sampling_param_best_of": (INT32, 1),
    "sampling_param_temperature": (FP32, 1),
    "sampling_param_top_k": (INT32, 1),
    "sampling_param_top_p": (FP32, 1),
    "sampling_param_frequency_penalty": (FP32, 1),
    "sampling_param_presence_penalty": (FP32, 1),
    "sampling_param_max_tokens": (INT32, 1),
    "sampling_param_stop": (STRING, -1),
    "sampling_param_seed": (UINT64, 1),
    "sampling_param_exclude_input_from_output": (BOOL, 1),
    "sampling_param_return_perf_metrics": (BOOL, 1),
    "return_finish_reason": (BOOL, 1),
    "return_stop_reason": (BOOL, 1),
    "return_cumulative_logprob": (BOOL, 1),
    "stop": (BOOL, 1),
    "lora_id": (UINT64, 1),
    "lora_name": (STRING, 1),
}
LLM_API_OUTPUTS = {
    "text_output": (STRING, -1),
    "finish_reason": (STRING, -1),
    "stop_reason": (STRING, -1),
    "cumulative_logprob": (FP32, -1),
    **_TIMES,
}

VLLM_INPUTS = {
    "text_input": (STRING, 1),
    "image": (STRING, -1),
    "stream": (BOOL, 1),
    "sampling_parameters": (STRING, 1),
    "exclude_input_in_output": (BOOL, 1),
    "return_finish_reason": (BOOL, 1),
    "return_cumulative_logprob": (BOOL, 1),
    "return_logprobs": (BOOL, 1),
    "return_num_input_tokens": (BOOL, 1),
    "return_num_output_tokens": (BOOL, 1),
    "embedding_request": (STRING, 1),
}
VLLM_OUTPUTS = {
    "text_output": (STRING, -1),
    "finish_reason": (STRING, -1),
    "cumulative_logprob": (FP32, -1),
    "logprobs": (STRING, -1),
    "num_input_tokens": (UINT32, 1),
    "num_output_tokens": (UINT32, -1),
}

TOKENS_INPUTS = {"input_ids": (INT32, -1), "input_lengths": (INT32, 1), "request_output_len": (INT32, 1)}
TOKENS_OUTPUTS = {"output_ids": (INT32, -1), "sequence_length": (INT32, -1)}

_KINDS = {
    "ensemble": (ENSEMBLE_INPUTS, ENSEMBLE_OUTPUTS, ("text_input", "max_tokens"), 8),
    "llmapi": (LLM_API_INPUTS, LLM_API_OUTPUTS, ("text_input",), 0),
    "vllm": (VLLM_INPUTS, VLLM_OUTPUTS, ("text_input",), 0),
    "tokens": (TOKENS_INPUTS, TOKENS_OUTPUTS, tuple(TOKENS_INPUTS), 8),
}


def upstream_config(kind: str, name: str, *, decoupled: bool = True, **parameters: str) -> str:
    """config.pbtxt of a Python model that stands for one of upstream's: `ensemble`, `llmapi`, `vllm`,
    `tokens`."""
    inputs, outputs, required, max_batch_size = _KINDS[kind]
    lines = [
        f'name: "{name}" backend: "python" max_batch_size: {max_batch_size}',
        f"model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}",
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
        *(
            f'input {{ name: "{tensor}" data_type: TYPE_{datatype} dims: [ {size} ]'
            f" optional: {str(tensor not in required).lower()} }}"
            for tensor, (datatype, size) in inputs.items()
        ),
        *(
            f'output {{ name: "{tensor}" data_type: TYPE_{datatype} dims: [ {size} ] }}'
            for tensor, (datatype, size) in outputs.items()
        ),
        *(
            f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}'
            for key, value in {"kind": kind, **parameters}.items()
        ),
    ]
    return "\n".join(lines) + "\n"
