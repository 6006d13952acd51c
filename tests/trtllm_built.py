"""What a finished TensorRT-LLM build leaves, with a fake front and a C++ model that looks for its engine."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enginewright.load_recipe import load_trtllm_recipe, parse_set
from enginewright.trtllm_recipe import trtllm_target
from enginewright_front.pbtxt import render_configs

H100 = {
    "tensorrt_llm": "1.2.1",
    "tensorrt": "10.14.1.48",
    "sm": 90,
    "gpu_memory_mib": 81_559,
}
QWQ_CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 5120,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "intermediate_size": 27648,
    "vocab_size": 152064,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
FAKE_LLM = Path(__file__).parent / "runtime" / "fake_llm.py"
# Its engine must be where its config says, as the C++ backend would have it.
CPP_MODEL = """
import json
import os
from pathlib import Path


class TritonPythonModel:
    def initialize(self, args):
        path = json.loads(args["model_config"])["parameters"]["gpt_model_path"]["string_value"]
        if "STAND_IN_MOUNT" in os.environ:
            path = path.replace("/models", os.environ["STAND_IN_MOUNT"], 1)
        if not (Path(path) / "rank0.engine").is_file():
            raise ValueError(f"[TensorRT-LLM][ERROR] Assertion failed: no engine at {path}")

    def execute(self, requests):
        return [None] * len(requests)
"""
CPP_CONFIG = """name: "{name}"
backend: "python"
input [ {{ name: "x" data_type: TYPE_INT32 dims: [ 1 ] }} ]
output [ {{ name: "y" data_type: TYPE_INT32 dims: [ 1 ] }} ]
parameters {{ key: "gpt_model_path" value {{ string_value: "/models/{name}/1/engine" }} }}
"""


def write_built(
    folder: Path,
    *,
    recipe: str = "qwq-32b-fp8-tp2",
    sets: tuple[str, ...] = (),
    facts: dict[str, Any] | None = None,
    **front: str,
) -> Path:
    """A repository in the new `folder` whose manifest says that `recipe` was built on H100s."""
    loaded = load_trtllm_recipe(recipe, [parse_set(text) for text in sets])
    target = trtllm_target(loaded)
    version = folder / "llm" / "1"
    (version / "checkpoint").mkdir(parents=True)
    (version / "checkpoint" / "config.json").write_text(json.dumps(QWQ_CONFIG))
    shutil.copyfile(FAKE_LLM, version / "model.py")
    parameters = {"max_seq_len": "2048", "default.temperature": "0.5", "reasoning.open": "<think>", **front}
    (folder / "llm" / "config.pbtxt").write_text(render_configs(parameters)["llm"])
    for variant in target.variants:
        model = folder / target.model_name(variant)
        (model / "1" / "engine").mkdir(parents=True)
        for rank in range(target.world_size):
            (model / "1" / "engine" / f"rank{rank}.engine").write_bytes(b"engine")
        (model / "1" / "model.py").write_text(CPP_MODEL)
        (model / "config.pbtxt").write_text(CPP_CONFIG.format(name=model.name))
    record = {**H100, "world_size": target.world_size} if facts is None else facts
    write_built_manifest(folder, loaded.model_dump(), record, [item.name for item in target.variants])
    return folder


def write_built_manifest(
    folder: Path, recipe: dict[str, Any], facts: dict[str, Any], variants: Sequence[str] = ("native",)
) -> None:
    """manifest.json with the files that lie in `folder`."""
    files = {
        str(path.relative_to(folder)): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {
        "format": 1,
        "name": recipe["name"],
        "target": "trtllm",
        "recipe": recipe,
        "chain": {**{f"compile-{name}": {"facts": facts} for name in variants}, "package": {"files": files}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
