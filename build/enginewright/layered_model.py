"""A checkpoint as transformers computes it in float32, one decoder layer in memory at a time.

The checkpoint may be quantized: its linears are dequantized by `dequantized_linear`. So a 32B model needs the
memory of one layer, its embedding and the hidden states, not of 131 GB of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from enginewright_model import ModelSpec, RopeSpec, read_json_object
from numpy.typing import NDArray

from enginewright.checkpoint import source_spec
from enginewright.dequantized_linear import dequantize_linear
from enginewright.tensor_reader import TensorReader
from enginewright.transformers_config import transformers_config
from enginewright.weight_files import find_weight_files

__all__ = ["Change", "LayeredModel", "run_layer"]

_NORMS = ("input_layernorm", "post_attention_layernorm")
_LINEARS = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)

Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def _as_it_is(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    return weight


class LayeredModel:
    """Torch tensors in, torch tensors out; use it inside a `torch_session`.

    change: what is done to the weight float32 [out, in] of every decoder linear.
    Raises CheckpointError where the checkpoint lacks a tensor or has one that cannot be right.
    """

    def __init__(self, checkpoint: Path, change: Change = _as_it_is) -> None:
        import torch

        self._change = change

        self._spec = source_spec(read_json_object(checkpoint / "config.json"))
        self._reader = TensorReader(find_weight_files(checkpoint).tensors)
        self._decoder = _skeleton(self._spec).model
        self._embedding = torch.from_numpy(self._reader.float32("model.embed_tokens.weight"))

    @property
    def num_layers(self) -> int:
        return self._spec.num_layers

    def embed(self, ids: NDArray[np.int32]) -> Any:
        """Token ids [B, S] -> hidden states float32 [B, S, hidden]."""
        import torch

        return self._embedding[torch.from_numpy(ids.astype(np.int64))]

    def angles(self, states: Any, rope: RopeSpec | None = None) -> Any:
        """Cosines and sines for the positions of `states` [B, S, hidden]; rope None: the checkpoint's."""
        import torch

        spec = replace(self._spec, rope=rope) if rope else self._spec
        rotary = type(self._decoder.rotary_emb)(transformers_config(spec))
        return rotary(states, torch.arange(states.shape[1])[None])

    @contextmanager
    def layer(self, index: int) -> Iterator[Any]:
        """The decoder layer `index` with its weights, for as long as it is needed: see `run_layer`."""
        layer = self._decoder.layers[index]
        layer.load_state_dict(self._layer_tensors(f"model.layers.{index}."), assign=True)
        yield layer
        layer.to("meta")

    def logits(self, states: Any) -> NDArray[np.float32]:
        """The last layer's hidden states [..., hidden] -> [..., vocab]."""
        norm, head = self._head
        found: NDArray[np.float32] = (norm(states) @ head.T).numpy()
        return found

    def _layer_tensors(self, prefix: str) -> dict[str, Any]:
        import torch

        reader = self._reader
        tensors = {f"{name}.weight": reader.float32(f"{prefix}{name}.weight") for name in _NORMS}
        for name in _LINEARS:
            tensors[f"{name}.weight"] = self._change(dequantize_linear(reader, prefix + name).effective)
            if f"{prefix}{name}.bias" in reader:
                tensors[f"{name}.bias"] = reader.float32(f"{prefix}{name}.bias")
        return {name: torch.from_numpy(value) for name, value in tensors.items()}

    @cached_property
    def _head(self) -> tuple[Any, Any]:
        import torch

        norm = self._decoder.norm
        weight = torch.from_numpy(self._reader.float32("model.norm.weight"))
        norm.load_state_dict({"weight": weight}, assign=True)
        if self._spec.tie_word_embeddings:
            return norm, self._embedding
        return norm, torch.from_numpy(dequantize_linear(self._reader, "lm_head").effective)


def _skeleton(spec: ModelSpec) -> Any:
    """The transformers model without memory for its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            transformers_config(spec), dtype=torch.float32, attn_implementation="sdpa"
        ).eval()


def run_layer(layer: Any, states: Any, angles: Any) -> Any:
    """Hidden states [B, S, hidden] through one decoder layer."""
    # Without a mask, scaled_dot_product_attention is causal.
    out = layer(states, position_embeddings=angles, attention_mask=None)
    return out[0] if isinstance(out, tuple) else out  # a tuple up to transformers 4.57
