"""config.json of a TensorRT-LLM checkpoint, every key with what happens when it is absent.

Observed by deleting one key at a time from a config that upstream's own PretrainedConfig and QWenConfig read.
The silent ones are the reason for `CONFIG_KEYS`: a checkpoint without them builds, runs and answers nonsense.
ModelOpt's exporter leaves out qwen_type and seq_length (refused) and, under transformers 5, rotary_base and
rotary_scaling (silent), and promises the checkpoint's max_position_embeddings whatever the scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from enginewright_model import ModelSpec

from enginewright_trtllm.layout import padded_vocab
from enginewright_trtllm.parallel import Parallel
from enginewright_trtllm.quantization import Quantization

__all__ = [
    "CONFIG_KEYS",
    "QUANTIZATION_KEYS",
    "QWEN_KEYS",
    "LogitsDtype",
    "quantization_block",
    "render_config",
]

LogitsDtype = Literal["float16", "float32"]

# Key -> what upstream does without it.
CONFIG_KEYS: Mapping[str, str] = {
    "architecture": "refuses the checkpoint",
    "dtype": "refuses the checkpoint",
    "logits_dtype": "computes logits in float32 whatever the server was told",
    "num_hidden_layers": "refuses the checkpoint",
    "num_attention_heads": "refuses the checkpoint",
    "num_key_value_heads": "takes num_attention_heads: attention without groups",
    "hidden_size": "refuses the checkpoint",
    "intermediate_size": "takes 4 * hidden_size",
    "head_size": "takes hidden_size / num_attention_heads",
    "vocab_size": "refuses the checkpoint",
    "hidden_act": "silently uses gelu",
    "norm_epsilon": "silently uses 1e-5",
    "position_embedding_type": "silently uses learned_absolute: no rotary embedding at all",
    "max_position_embeddings": "refuses the checkpoint; it is the number of rows of the rotary table",
    "rotary_base": "silently uses 10000",
    "rotary_scaling": "silently uses none",
    "attn_bias": "takes the family's default, true for Qwen and false for Llama",
    "mlp_bias": "takes false",
    "use_parallel_embedding": "takes false and refuses the split embedding",
    "embedding_sharding_dim": "takes 0",
    "mapping": "takes one rank",
    "quantization": "takes none, and refuses every quantized tensor by its shape",
}
QWEN_KEYS: Mapping[str, str] = {
    "qwen_type": "fails with an AttributeError",
    "seq_length": "fails with an AttributeError",
}
# An unknown key inside `quantization` is a TypeError upstream.
QUANTIZATION_KEYS = (
    "quant_algo",
    "kv_cache_quant_algo",
    "group_size",
    "has_zero_point",
    "pre_quant_scale",
    "exclude_modules",
)


def render_config(
    model: ModelSpec,
    quantization: Quantization,
    parallel: Parallel,
    *,
    rotary_base: float,
    rotary_scaling: Mapping[str, Any] | None,
    max_position_embeddings: int,
    logits_dtype: LogitsDtype,
) -> dict[str, Any]:
    """The one config.json of all ranks. `max_position_embeddings` is the promised context, scaling
    included."""
    config: dict[str, Any] = {
        "architecture": model.architecture_name,
        "dtype": model.dtype,
        "logits_dtype": logits_dtype,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "head_size": model.head_dim,
        "vocab_size": padded_vocab(model, quantization),
        "hidden_act": "silu",
        "norm_epsilon": model.rms_norm_eps,
        # YaRN too: the scaling is a matter of the tables, not of the kind of embedding.
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": max_position_embeddings,
        "rotary_base": rotary_base,
        "rotary_scaling": None if rotary_scaling is None else dict(rotary_scaling),
        "attn_bias": model.qkv_bias,
        "mlp_bias": False,
        "use_parallel_embedding": True,
        "embedding_sharding_dim": 0,
        "mapping": {"world_size": parallel.world_size, "tp_size": parallel.tp, "pp_size": parallel.pp},
        "quantization": quantization_block(quantization),
    }
    if model.architecture == "qwen2":
        # seq_length bounds the log-n scaling of the first Qwen generation, which is off here; it is read all
        # the same, and 8192 is what upstream's converter writes for every Qwen2.
        config |= {"qwen_type": "qwen2", "seq_length": 8192}
    return config


def quantization_block(quantization: Quantization) -> dict[str, Any]:
    """The `quantization` object. lm_head is excluded by name: a list without it would make lm_head FP8."""
    match quantization.format:
        case "fp8":
            return {
                "quant_algo": "FP8",
                "kv_cache_quant_algo": "FP8" if quantization.kv_fp8 else None,
                "exclude_modules": ["lm_head"],
            }
        case "int4_awq":
            return {
                "quant_algo": "W4A16_AWQ",
                "kv_cache_quant_algo": None,
                "group_size": quantization.group_size,
                "has_zero_point": False,
                "pre_quant_scale": True,
                "exclude_modules": ["lm_head"],
            }
        case "none":
            return {"quant_algo": None, "kv_cache_quant_algo": None}
