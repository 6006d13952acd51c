"""A random BF16 checkpoint of QwQ-32B's shape with fewer layers, and a small one of the same proportions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import enginewright
import torch
from enginewright.expected_tensors import expected_tensors
from enginewright.recipe import CalibrationRecipe
from enginewright.trtllm_recipe import TrtllmQuantization
from enginewright_model import read_model_spec
from safetensors.torch import save_file
from tiny_models import write_tokenizer

__all__ = ["SHAPES", "Shape", "write_random_checkpoint"]

_KNOWN = json.loads((Path(enginewright.__file__).parent / "data/known_configs.json").read_text())
_QWQ = _KNOWN["Qwen/QwQ-32B"]


@dataclass(frozen=True, slots=True)
class Shape:
    """config: of the whole model. calibration: what its recipe would calibrate with."""

    config: Mapping[str, Any]
    calibration: CalibrationRecipe

    @property
    def max_layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    def with_layers(self, layers: int) -> dict[str, Any]:
        """The config.json of the model cut to `layers`."""
        return {**self.config, "num_hidden_layers": layers}


SHAPES = {
    "qwq-32b": Shape(_QWQ, TrtllmQuantization().calibration),
    # The smallest that INT4-AWQ's kernels can split over two ranks.
    "small": Shape(
        {
            **_QWQ,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_attention_heads": 20,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "vocab_size": 512,
        },
        CalibrationRecipe(samples=1, length=64),
    ),
}


def write_random_checkpoint(folder: Path, config: Mapping[str, Any], device: str) -> int:
    """Write config.json, a tokenizer of a few hundred tokens and one weight file a layer; returns bytes.

    Weights are drawn on `device`, a layer at a time, so that host memory stays at one layer. The tokenizer
    only cuts the calibration text: which tokens are seen changes neither time nor memory.
    """
    folder.mkdir(parents=True)
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    random = torch.Generator(device).manual_seed(0)
    shapes = expected_tensors(read_model_spec(config))
    names: dict[str, list[str]] = {}
    for name in shapes:
        names.setdefault(_part(name), []).append(name)
    where: dict[str, str] = {}
    for part, members in names.items():
        file = f"model-{part}.safetensors"
        tensors = {name: _draw(name, shapes[name], random, device) for name in members}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(members, file)
    total = 2 * sum(math.prod(shape) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _part(name: str) -> str:
    """The file that a tensor goes to: one for each layer, one for the rest."""
    parts = name.split(".")
    return parts[2] if parts[1] == "layers" else "rest"


def _draw(name: str, shape: tuple[int, ...], random: torch.Generator, device: str) -> torch.Tensor:
    """As wide as trained weights are: norms about 1, biases about 0.5, matrices about 0.02."""
    tensor = torch.empty(shape, dtype=torch.bfloat16, device=device)
    if "norm" in name:
        tensor.uniform_(0.5, 1.5, generator=random)
    else:
        tensor.normal_(0.0, 0.5 if name.endswith("bias") else 0.02, generator=random)
    return tensor.cpu()
