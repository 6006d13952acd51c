"""The rendered repository of TensorRT-LLM, with stand-ins for its C++ models that the real Triton can run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from enginewright.stages.package_trtllm import package_trtllm
from enginewright_front.front_config import read_front_config, write_front_config
from enginewright_onnx import EngineOptions, write_engine
from enginewright_trtllm.target import TrtllmTarget, Variant, Yarn
from trtllm_targets import QWQ

ROOT = Path(__file__).resolve().parents[2]

NATIVE, LONG, SLOTS = 96, 256, 4


def stand_in_target(long: int = LONG) -> TrtllmTarget:
    """A native and a long variant; what else it says only has to render."""
    return TrtllmTarget(
        "bf16",
        "H200-141",
        variants=(Variant("native", NATIVE), Variant("long", long, Yarn(4.0, 64))),
        max_batch_size=SLOTS,
        max_queue_size=32,
    )


_MODEL = """
import sys

sys.path[:0] = {roots!r}

from triton_repo.trtllm_stand_in.model import TritonPythonModel
"""


def write_exact_engine(checkpoint: Path, folder: Path, max_seq_len: int, *, slots: int = SLOTS) -> None:
    """An ONNX engine in exact arithmetic."""
    options = EngineOptions(
        max_seq_len=max_seq_len,
        max_batch_size=slots,
        accuracy_level=0,
        lm_head="fp32",
        fp8_compute="fp32",
        threads=1,
    )
    write_engine(checkpoint, folder, options)


def write_stand_in_repository(
    out: Path,
    checkpoint: Path,
    engines: dict[str, Path],
    *,
    target: TrtllmTarget,
    silence_seconds: float = 1.0,
    stall_seconds: float = 1.5,
) -> None:
    """engines: an ONNX engine for each variant. The times are the front's, short enough for a test."""
    package_trtllm(
        engines,
        checkpoint,
        out,
        target=target,
        dims=QWQ,
        name="tiny",
        max_tokens_default=64,
        mounted_at=str(out),
    )
    for variant in target.variants:
        _stand_in(out / target.model_name(variant))
    path = out / "llm" / "1" / "front.json"
    front = read_front_config(path)
    assert front.tensorrt_llm is not None
    write_front_config(
        replace(
            front,
            limits=replace(front.limits, stall_seconds=stall_seconds),
            tensorrt_llm=replace(front.tensorrt_llm, silence_seconds=silence_seconds),
        ),
        path,
    )


def replace_engines(repository: Path, checkpoint: Path, target: TrtllmTarget) -> None:
    """Put exact ONNX engines of `checkpoint` and stand-ins in the place of a packaged repository's own."""
    for variant in target.variants:
        folder = repository / target.model_name(variant)
        config = (folder / "config.pbtxt").read_text()
        (folder / "config.pbtxt").unlink()
        (folder / "config.pbtxt").write_text(config.replace('"/models/', f'"{repository}/'))
        shutil.rmtree(folder / "1" / "engine")
        write_exact_engine(checkpoint, folder / "1" / "engine", variant.max_seq_len)
        _stand_in(folder)


def _stand_in(folder: Path) -> None:
    """The same config but for its backend, and an engine that has no end tokens of its own."""
    config = (folder / "config.pbtxt").read_text()
    (folder / "config.pbtxt").write_text(config.replace('backend: "tensorrtllm"', 'backend: "python"'))
    roots = [str(ROOT / name) for name in ("engines", "build", "triton_repo", "tests")]
    (folder / "1" / "model.py").write_text(_MODEL.format(roots=roots))
    description = folder / "1" / "engine" / "engine.json"
    data = json.loads(description.read_text())
    description.unlink()
    description.write_text(json.dumps({**data, "eos_token_ids": []}))
