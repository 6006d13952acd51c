"""Bytes of weights: on a GPU, in the checkpoint's rank files, and read by one decode step.

Every linear of a decoder layer is quantized, embedding and lm_head stay in BF16. int4_awq: half a byte an
element, one scale per group (BF16 in the engine, FP32 in the checkpoint) and a BF16 pre-quant scale per input
feature. Tensor parallelism splits all of it but the norms; pipeline parallelism splits layers, the first
stage holds the embedding, the last the lm_head. A tied pair counts twice: the engine holds two copies as soon
as the GEMM plugin is on.
"""

from __future__ import annotations

from enginewright_model import ModelSpec

from enginewright_trtllm.target import TrtllmTarget, Variant

__all__ = [
    "checkpoint_bytes",
    "decode_read_bytes",
    "engine_bytes",
    "linear_parameters",
    "source_bytes",
    "stage_weights",
]

BF16 = 2
FP32 = 4
_ELEMENT_BITS = {"bf16": 16, "fp8": 8, "int4_awq": 4}


def linear_parameters(dims: ModelSpec) -> int:
    """Elements of the linears of one decoder layer: qkv, dense, gate, up, down."""
    attention = dims.hidden_size * (dims.qkv_size + dims.query_size)
    return attention + 3 * dims.hidden_size * dims.intermediate_size


def source_bytes(dims: ModelSpec) -> int:
    """Bytes of the original checkpoint in BF16."""
    body = dims.num_layers * (linear_parameters(dims) + _small_parameters(dims)) + dims.hidden_size
    return BF16 * (body + dims.vocab_size * dims.hidden_size * (1 if dims.tie_word_embeddings else 2))


def stage_weights(dims: ModelSpec, target: TrtllmTarget, variant: Variant) -> tuple[int, ...]:
    """Resident bytes of one rank of each pipeline stage."""
    layers = -(-dims.num_layers // target.pp)
    vocab = -(-dims.vocab_size // target.tp) * dims.hidden_size * BF16
    # The rotary table, as many rows as positions were promised, in FP32, on every rank.
    rope = variant.max_seq_len * dims.head_dim * FP32
    body = layers * _layer_bytes(dims, target, scale_bytes=BF16) + rope
    return tuple(
        body + vocab * ((stage == 0) + (stage == target.pp - 1)) + dims.hidden_size * BF16
        for stage in range(target.pp)
    )


def engine_bytes(dims: ModelSpec, target: TrtllmTarget, variant: Variant) -> int:
    """Bytes of all rank{N}.engine files of a variant."""
    return target.tp * sum(stage_weights(dims, target, variant))


def checkpoint_bytes(dims: ModelSpec, target: TrtllmTarget) -> int:
    """Bytes of all rank{N}.safetensors files; variants share them."""
    layers = -(-dims.num_layers // target.pp) * target.pp
    vocab = 2 * dims.vocab_size * dims.hidden_size * BF16
    return target.tp * layers * _layer_bytes(dims, target, scale_bytes=FP32) + vocab


def decode_read_bytes(dims: ModelSpec, target: TrtllmTarget) -> int:
    """Weight bytes that one decode step reads over all ranks: everything but the embedding table."""
    return dims.num_layers * _layer_bytes(dims, target, scale_bytes=BF16) * target.tp + (
        dims.vocab_size * dims.hidden_size * BF16
    )


def _layer_bytes(dims: ModelSpec, target: TrtllmTarget, *, scale_bytes: int) -> int:
    """Of one decoder layer on one rank."""
    elements = linear_parameters(dims)
    split = elements * _ELEMENT_BITS[target.format] // 8
    replicated = 2 * dims.hidden_size * BF16
    if target.format == "int4_awq":
        # Pre-quant scales go with the input features: whole for qkv, gate and up, split for dense and down.
        split += (
            elements // target.group_size * scale_bytes + (dims.query_size + dims.intermediate_size) * BF16
        )
        replicated += 3 * dims.hidden_size * BF16
    split += dims.qkv_size * BF16 if dims.qkv_bias else 0
    return -(-split // target.tp) + replicated


def _small_parameters(dims: ModelSpec) -> int:
    return 2 * dims.hidden_size + (dims.qkv_size if dims.qkv_bias else 0)
