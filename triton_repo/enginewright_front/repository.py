"""Writes a model repository: `llm`, its aliases, and a copy of the code that runs them.

    out/llm/config.pbtxt
    out/llm/1/{model.py, front.json, engine/, checkpoint/}
    out/llm/1/{enginewright_front/, enginewright_onnx/, enginewright_errors/}
    out/llm_unary/..., out/ensemble/..., out/tensorrt_llm_bls/..., out/vllm_model/...

`trtllm_repository` writes the one with TensorRT-LLM's models in place of the ONNX engine, of the same parts.

A repository runs its own copy of the code, whatever else is installed: model.py puts its folder first on
sys.path. The same inputs give the same bytes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from enginewright_errors import CheckpointError

from enginewright_front.front_config import MAX_PROMPT_BYTES, FrontConfig, FrontLimits, write_front_config
from enginewright_front.generation_defaults import generation_defaults
from enginewright_front.pbtxt import ENSEMBLES, PUBLIC, render_configs
from enginewright_front.reasoning import detect_reasoning

_CHECKPOINT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
)
_BYTES_PER_TOKEN = 32
_REQUIRED = ("tokenizer.json", "tokenizer_config.json")

_ENTRY = '''"""Triton's way in: runs the code that lies beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from enginewright_front.{module} import TritonPythonModel  # noqa: E402

__all__ = ["TritonPythonModel"]
'''


def write_repository(
    out: Path,
    *,
    engine: Path,
    checkpoint: Path,
    name: str,
    max_queue: int = 256,
    max_tokens_default: int = 256,
) -> None:
    """Write the whole repository into the empty folder `out`.

    engine: an engine folder; its files are hard linked where the file system allows it, else copied.
    checkpoint: the folder with tokenizer, chat template and generation config. name: what the model is called
    to people; the model that clients address is always `llm`. Raises CheckpointError naming the file that is
    wrong.
    """
    data = _engine_json(engine)
    front = front_config(
        checkpoint,
        max_seq_len=_max_seq_len(data),
        name=name,
        max_queue=max_queue,
        max_tokens_default=max_tokens_default,
    )
    write_repository_models(out, front, parameters=_engine_parameters(data))
    link_files(engine, out / PUBLIC / "1" / front.engine)
    copy_checkpoint(checkpoint, out / PUBLIC / "1" / front.checkpoint)


def front_config(
    checkpoint: Path, *, max_seq_len: int, name: str, max_queue: int, max_tokens_default: int
) -> FrontConfig:
    """What `front.json` says of this checkpoint, in front of an ONNX engine. Raises CheckpointError."""
    for file in _REQUIRED:
        if not (checkpoint / file).exists():
            raise CheckpointError(f"{checkpoint / file}: missing", code="tokenizer-missing", hint="add it")
    limits = FrontLimits(
        max_queue=max_queue,
        max_tokens_default=max_tokens_default,
        # Longer text cannot fit, tokenizers average 3 to 6 bytes: this bounds the time that a refusal takes.
        max_prompt_bytes=min(MAX_PROMPT_BYTES, max(2**16, _BYTES_PER_TOKEN * max_seq_len)),
    )
    return FrontConfig(
        model_name=name,
        limits=limits,
        defaults=generation_defaults(checkpoint),
        reasoning=detect_reasoning(checkpoint),
    )


def write_repository_models(out: Path, front: FrontConfig, *, parameters: Mapping[str, str]) -> None:
    """Write every model folder but the engine and the checkpoint: configs, model.py, front.json, the code.

    parameters: more entries for the model configs, beside what `echoed` gives.
    """
    for name, config in render_configs({**echoed(front), **parameters}).items():
        version = out / name / "1"
        version.mkdir(parents=True)
        (out / name / "config.pbtxt").write_text(config, encoding="utf-8")
        if name in ENSEMBLES:
            # Triton needs the version folder, and archives drop empty ones.
            (version / "README").write_text(
                f"An ensemble: one step to the model `{PUBLIC}`.\n", encoding="utf-8"
            )
            continue
        module = "model" if name == PUBLIC else "unary"
        (version / "model.py").write_text(_ENTRY.format(module=module), encoding="utf-8")
        _copy_package("enginewright_front", version)
        _copy_package("enginewright_errors", version)
    if front.backend == "onnx":
        _copy_package("enginewright_onnx", out / PUBLIC / "1", only=("__init__.py", "runtime"))
    write_front_config(front, out / PUBLIC / "1" / "front.json")


def copy_checkpoint(checkpoint: Path, into: Path) -> None:
    """Copy what the front reads of a checkpoint into the new folder `into`."""
    into.mkdir()
    for file in _CHECKPOINT_FILES:
        if (checkpoint / file).exists():
            shutil.copyfile(checkpoint / file, into / file)


def link_files(source: Path, into: Path) -> None:
    """Every file below `source`, in the same place below `into`: hard links where possible, else copies."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        target = into / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), target)
        except OSError:
            shutil.copyfile(path, target)


def echoed(front: FrontConfig) -> dict[str, str]:
    """What a client can read of `front` in a model's config: defaults, limits, reasoning markers."""
    values: dict[str, Any] = {"model": front.model_name}
    values |= {f"default.{key}": value for key, value in asdict(front.defaults).items()}
    values |= {f"limit.{key}": value for key, value in asdict(front.limits).items()}
    if front.reasoning is not None:
        values |= {f"reasoning.{key}": value for key, value in asdict(front.reasoning).items()}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def _engine_json(engine: Path) -> dict[str, Any]:
    path = engine / "engine.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: {error}", code="engine-damaged", hint="build the engine again"
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(
            f"{path}: is not a JSON object", code="engine-damaged", hint="build the engine again"
        )
    return data


def _max_seq_len(engine: Mapping[str, Any]) -> int:
    return int(engine["limits"]["max_seq_len"])


def _engine_parameters(data: Mapping[str, Any]) -> dict[str, str]:
    return {
        "engine": "onnx",
        "max_seq_len": str(_max_seq_len(data)),
        "quantization": str(data.get("quantization", {}).get("format")),
    }


def _copy_package(package: str, into: Path, *, only: tuple[str, ...] | None = None) -> None:
    """Copy the source of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            f"the package {package} is not installed", code="package-missing", hint="install it"
        )
    root = Path(spec.submodule_search_locations[0])
    for source in sorted(root.rglob("*.py")):
        path = source.relative_to(root)
        if only is None or path.parts[0] in only:
            target = into / package / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
