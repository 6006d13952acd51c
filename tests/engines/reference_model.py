"""The transformers model of a checkpoint, quantized or not: what an engine is compared with.

A quantized checkpoint is dequantized here a second time, with torch and straight from ModelOpt's layouts, so
that a mistake in the engine's own reader cannot hide.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["ReferenceModel"]


class ReferenceModel:
    """float32 logits of the checkpoint in `folder`; `rope` replaces its rope_parameters."""

    def __init__(self, folder: Path, rope: dict[str, object] | None = None) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(folder)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        if rope is not None:
            config.rope_parameters = rope
        self._model = AutoModelForCausalLM.from_config(config).float().eval()
        self._model.load_state_dict(dequantized_state(folder), strict=False)
        self._model.tie_weights()

    def logits(self, ids: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Logits [S, vocab] of one sequence of token ids [S]."""
        import torch

        with torch.no_grad():
            result: npt.NDArray[np.float32] = (
                self._model(torch.tensor(np.asarray(ids))[None]).logits[0].numpy()
            )
        return result


def dequantized_state(folder: Path) -> dict[str, torch.Tensor]:
    """The state dict of a unified checkpoint: linear weights float32, their input scales multiplied in."""
    import torch
    from safetensors.torch import load_file

    raw: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        raw.update(load_file(file))
    state = {}
    for name, tensor in raw.items():
        if name.endswith("_scale"):
            continue
        scale = raw.get(name.replace(".weight", ".weight_scale"))
        if name.endswith(".weight") and scale is not None:
            if tensor.dtype == torch.uint8:
                nibbles = (
                    torch.stack((tensor & 15, tensor >> 4), dim=1)
                    .reshape(-1, tensor.shape[1])
                    .to(torch.int16)
                )
                signed = torch.where(nibbles > 7, nibbles - 16, nibbles).double()
                tensor = signed * scale.double().repeat_interleave(signed.shape[1] // scale.shape[1], dim=1)
            else:
                tensor = tensor.double() * scale.double().reshape(-1, 1)
            inputs = raw.get(name.replace(".weight", ".pre_quant_scale"))
            if inputs is not None:
                tensor = tensor * inputs.double()
        state[name] = tensor.float()
    return state
