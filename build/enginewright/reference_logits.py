"""Logits of a checkpoint computed by transformers in float32: what an engine is compared with.

The checkpoint may be quantized: its linears are dequantized by `dequantized_linear`. Layers are loaded, run
over all sequences and dropped one after the other, so a 32B model needs the memory of one layer, its
embedding and the hidden states, not of 131 GB of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginewright.dequantized_linear import dequantize_linear
from enginewright.export_checkpoint import complete_config
from enginewright.json_file import read_json_object
from enginewright.model_spec import ModelSpec, read_model_spec
from enginewright.tensor_reader import TensorReader
from enginewright.weight_files import find_weight_files

__all__ = ["ReferenceSequence", "reference_logits"]

_NORMS = ("input_layernorm", "post_attention_layernorm")
_LINEARS = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)


@dataclass(frozen=True, slots=True)
class ReferenceSequence:
    """Token ids int32 [S], and a rope that replaces the checkpoint's (None: its own)."""

    ids: NDArray[np.int32]
    rope: Mapping[str, Any] | None = None


def reference_logits(
    checkpoint: Path,
    sequences: Sequence[ReferenceSequence],
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yield float32 [S, vocab] for each sequence, in order. Call it inside a `torch_session`.

    `progress(layers done, layers)`.

    Raises:
        CheckpointError: the checkpoint lacks a tensor or has one that cannot be right.
    """
    import torch

    fields = read_json_object(checkpoint / "config.json")
    spec = read_model_spec(fields)
    reader = TensorReader(find_weight_files(checkpoint).tensors)
    decoder = _skeleton(fields, spec).model
    embedding = torch.from_numpy(reader.float32("model.embed_tokens.weight"))
    hidden = [embedding[torch.from_numpy(sequence.ids.astype(np.int64))][None] for sequence in sequences]
    rotary = type(decoder.rotary_emb)
    angles = [
        rotary(_hf_config(fields, spec, sequence.rope))(states, torch.arange(len(sequence.ids))[None])
        for sequence, states in zip(sequences, hidden, strict=True)
    ]
    for index, layer in enumerate(decoder.layers):
        layer.load_state_dict(_layer_tensors(reader, f"model.layers.{index}."), assign=True)
        hidden = [_run(layer, states, angle) for states, angle in zip(hidden, angles, strict=True)]
        layer.to("meta")
        if progress:
            progress(index + 1, spec.num_layers)
    norm = torch.from_numpy(reader.float32("model.norm.weight"))
    decoder.norm.load_state_dict({"weight": norm}, assign=True)
    head = embedding
    if not spec.tie_word_embeddings:
        del embedding
        head = torch.from_numpy(dequantize_linear(reader, "lm_head").effective)
    for states in hidden:
        yield (decoder.norm(states)[0] @ head.T).numpy()


def _skeleton(fields: Mapping[str, Any], spec: ModelSpec) -> Any:
    """The transformers model without memory for its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            _hf_config(fields, spec, None), dtype=torch.float32, attn_implementation="sdpa"
        ).eval()


def _hf_config(fields: Mapping[str, Any], spec: ModelSpec, rope: Mapping[str, Any] | None) -> Any:
    from transformers import AutoConfig

    completed = complete_config(fields, replace(spec, rope=rope) if rope else spec)
    completed.pop("quantization_config", None)
    return AutoConfig.for_model(**{**completed, "model_type": spec.architecture})


def _layer_tensors(reader: TensorReader, prefix: str) -> dict[str, Any]:
    import torch

    tensors = {f"{name}.weight": reader.float32(f"{prefix}{name}.weight") for name in _NORMS}
    for name in _LINEARS:
        tensors[f"{name}.weight"] = dequantize_linear(reader, prefix + name).effective
        if f"{prefix}{name}.bias" in reader:
            tensors[f"{name}.bias"] = reader.float32(f"{prefix}{name}.bias")
    return {name: torch.from_numpy(value) for name, value in tensors.items()}


def _run(layer: Any, states: Any, angles: Any) -> Any:
    # Without a mask, scaled_dot_product_attention is causal.
    out = layer(states, position_embeddings=angles, attention_mask=None)
    return out[0] if isinstance(out, tuple) else out  # a tuple up to transformers 4.57
