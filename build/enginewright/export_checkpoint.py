"""Complete what ModelOpt exported into a checkpoint that every reader understands in the same way.

ModelOpt writes weights, hf_quant_config.json and a config.json as transformers 5 writes it, with
`rope_parameters` alone: a reader made for transformers 4 then takes the default theta of 10000 without a
word. So config.json is the source's own, with all spellings of the rope and the quantization added.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from enginewright_model import ModelSpec, read_json_object

from enginewright.checkpoint import TEXT_FILES, Checkpoint

__all__ = ["complete_config", "complete_export", "name_kept_layers", "source_dtype"]

_DTYPE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def complete_config(config: Mapping[str, Any], spec: ModelSpec) -> dict[str, Any]:
    """`config` with `rope_theta`, `rope_scaling` (if any) and `rope_parameters`, all saying the same."""
    completed = {**config, "rope_theta": spec.rope.rope_theta, "rope_parameters": spec.rope.as_json()}
    completed.pop("rope_scaling", None)
    if spec.rope.scaling is not None:
        completed["rope_scaling"] = spec.rope.scaling
    return completed


def source_dtype(source: Checkpoint) -> str:
    """The name of the dtype that the source's embedding is stored in: float32, float16 or bfloat16."""
    return _DTYPE[source.tensors["model.embed_tokens.weight"][1].dtype]


def complete_export(source: Checkpoint, folder: Path) -> None:
    """Add the source's text files to `folder` and replace its config.json; weights are not touched."""
    for name in TEXT_FILES:
        if (source.folder / name).exists():
            shutil.copyfile(source.folder / name, folder / name)
    config, exported = complete_config(source.config, source.spec), folder / "config.json"
    # `dtype` for transformers 5, `torch_dtype` for the others.
    config |= {"dtype": source_dtype(source), "torch_dtype": source_dtype(source)}
    if exported.exists():
        quantization = read_json_object(exported).get("quantization_config")
        if quantization is not None:
            config["quantization_config"] = quantization
    exported.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def name_kept_layers(folder: Path, layers: Collection[int]) -> None:
    """Name the layers that were not quantized so that no reader takes others for them.

    ModelOpt 0.47 writes "model.layers.1*", a pattern that layers 10 to 19 match as well.
    """
    names = {f"model.layers.{index}*": f"model.layers.{index}.*" for index in layers}
    for file, section, key in (
        ("hf_quant_config.json", "quantization", "exclude_modules"),
        ("config.json", "quantization_config", "ignore"),
    ):
        value = read_json_object(folder / file) if names else {}
        if key in value.get(section, {}):
            value[section][key] = [names.get(name, name) for name in value[section][key]]
            (folder / file).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
