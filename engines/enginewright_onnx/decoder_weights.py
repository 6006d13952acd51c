"""Opens every tensor that the decoder graph needs, and refuses a checkpoint that has others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from enginewright_errors import CheckpointError
from enginewright_model import ModelSpec

from enginewright_onnx.linear_weights import LinearWeight, open_linear, read_finite
from enginewright_onnx.tensors import CheckpointTensors

__all__ = ["DecoderWeights", "LayerWeights", "open_decoder_weights"]

Float32 = npt.NDArray[np.float32]

EMBEDDING = "model.embed_tokens"

# Activation scales, FP8 KV cache scales and old buffers of rope: not weights of a weight-only engine.
_IGNORED = (".input_scale", ".k_scale", ".v_scale", ".rotary_emb.inv_freq")


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder block. A norm carries the input scale that its readers share, where the export left one."""

    input_norm: Float32
    qkv: tuple[LinearWeight, LinearWeight, LinearWeight]
    output: LinearWeight
    post_norm: Float32
    gate: LinearWeight
    up: LinearWeight
    down: LinearWeight

    @property
    def linears(self) -> tuple[LinearWeight, ...]:
        return (*self.qkv, self.output, self.gate, self.up, self.down)


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All weights of a decoder; only the norms are read yet. A tied `lm_head` is the embedding."""

    embedding: LinearWeight
    layers: tuple[LayerWeights, ...]
    final_norm: Float32
    lm_head: LinearWeight


def open_decoder_weights(tensors: CheckpointTensors, spec: ModelSpec) -> DecoderWeights:
    """Open the weights of `spec`.

    Raises CheckpointError naming the tensor that is missing, misshapen, not finite, quantized unlike its
    neighbours, or not part of this architecture.
    """
    embedding = open_linear(tensors, EMBEDDING, spec.vocab_size, spec.hidden_size)
    if embedding.kind != "dense":
        raise CheckpointError(
            f"tensor {EMBEDDING}.weight is quantized",
            code="unsupported-dtype",
            hint="leave the embedding in floats",
        )
    lm_head = embedding
    if not spec.tie_word_embeddings:
        lm_head = open_linear(tensors, "lm_head", spec.vocab_size, spec.hidden_size)
    layers = tuple(_open_layer(tensors, spec, f"model.layers.{index}") for index in range(spec.num_layers))
    final_norm = _norm(tensors, "model.norm", spec.hidden_size)
    _refuse_unknown(
        tensors, [embedding, lm_head, *(item for layer in layers for item in layer.linears)], spec
    )
    return DecoderWeights(embedding, layers, final_norm, lm_head)


def _open_layer(tensors: CheckpointTensors, spec: ModelSpec, prefix: str) -> LayerWeights:
    """Open one block, with every input scale folded that can be folded exactly.

    q, k, v and gate, up take theirs from the norm that only they read. down_proj's multiplies silu(gate) * up
    and fits the rows of up_proj. o_proj's has no place: grouped query heads share the rows of v_proj.
    """
    hidden, inner, attention = spec.hidden_size, spec.intermediate_size, f"{prefix}.self_attn"
    query, key, value = (
        open_linear(tensors, f"{attention}.{name}", rows, hidden, bias=spec.qkv_bias)
        for name, rows in (("q_proj", spec.query_size), ("k_proj", spec.kv_size), ("v_proj", spec.kv_size))
    )
    _refuse_mixed(query, key, value)
    gate = open_linear(tensors, f"{prefix}.mlp.gate_proj", inner, hidden)
    up = open_linear(tensors, f"{prefix}.mlp.up_proj", inner, hidden)
    down = open_linear(tensors, f"{prefix}.mlp.down_proj", hidden, inner)
    input_norm = _norm(tensors, f"{prefix}.input_layernorm", hidden)
    post_norm = _norm(tensors, f"{prefix}.post_attention_layernorm", hidden)
    return LayerWeights(
        input_norm=input_norm * _shared_input_scale(query, key, value),
        qkv=(_unscaled(query), _unscaled(key), _unscaled(value)),
        output=open_linear(tensors, f"{attention}.o_proj", hidden, spec.query_size),
        post_norm=post_norm * _shared_input_scale(gate, up),
        gate=_unscaled(gate),
        up=replace(_unscaled(up), row_scale=down.pre_quant_scale),
        down=_unscaled(down),
    )


def _unscaled(weight: LinearWeight) -> LinearWeight:
    return replace(weight, pre_quant_scale=None)


def _refuse_mixed(query: LinearWeight, *others: LinearWeight) -> None:
    for other in others:
        if (other.kind, other.group_size) != (query.kind, query.group_size):
            raise CheckpointError(
                f"tensor {other.name}.weight is not quantized like {query.name}.weight",
                code="mixed-formats",
                hint="quantize q_proj, k_proj and v_proj of a layer alike, or none of them",
            )


def _norm(tensors: CheckpointTensors, name: str, size: int) -> Float32:
    weight = f"{name}.weight"
    if tensors.shape(weight) != (size,):
        raise CheckpointError(
            f"tensor {weight} has shape {list(tensors.shape(weight))}, expected [{size}]",
            code="wrong-shape",
            hint="the file is damaged, or config.json describes another model",
        )
    return read_finite(tensors, weight)


def _shared_input_scale(first: LinearWeight, *others: LinearWeight) -> Float32:
    """The input scale [columns] of layers that read one norm."""
    expected = _input_scale(first)
    for other in others:
        if not np.array_equal(_input_scale(other), expected):
            raise CheckpointError(
                f"tensor {other.name}.pre_quant_scale differs from {first.name}.pre_quant_scale",
                code="unshared-input-scale",
                hint="export with ModelOpt's export_hf_checkpoint, which gives layers of one input one scale",
            )
    return expected


def _input_scale(weight: LinearWeight) -> Float32:
    return np.ones(weight.columns, np.float32) if weight.pre_quant_scale is None else weight.pre_quant_scale


def _refuse_unknown(tensors: CheckpointTensors, linears: Sequence[LinearWeight], spec: ModelSpec) -> None:
    known = {"model.norm.weight"}
    for index in range(spec.num_layers):
        known.add(f"model.layers.{index}.input_layernorm.weight")
        known.add(f"model.layers.{index}.post_attention_layernorm.weight")
    for linear in linears:
        known.update(f"{linear.name}.{part}" for part in ("weight", "weight_scale", "pre_quant_scale"))
        if linear.bias is not None:
            known.add(f"{linear.name}.bias")
    if spec.tie_word_embeddings:
        known.add("lm_head.weight")
    for name in tensors.names():
        if name not in known and not name.endswith(_IGNORED):
            raise CheckpointError(
                f"tensor {name} is not part of a {spec.architecture} decoder of {spec.num_layers} layers",
                code="unknown-tensor",
                hint="the engine would leave it out; check architectures and num_hidden_layers",
            )
