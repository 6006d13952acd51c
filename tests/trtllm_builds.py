"""TensorRT-LLM builds of a tiny model for tests, with what was printed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from enginewright.build_run import BuildResult
from enginewright.handoff import read_handoff
from enginewright.load_recipe import load_trtllm_recipe, parse_set
from enginewright.progress import PlainReporter
from enginewright.trtllm_pipeline import build_trtllm
from enginewright_errors import EnginewrightError
from gpu_host import GpuHost

SETTINGS = (
    "name=tiny",
    "quantization.calibration={samples: 2, length: 64}",
    # Random weights lose more than a trained model does.
    "report={samples: 1, length: 32, prompts: 0, items: 0}",
    "gate={max_kl: 10.0, min_top1: 0.0, max_perplexity_ratio: 100.0}",
    "trtllm.max_seq_len=256",
    "trtllm.max_num_tokens=256",
    "trtllm.max_batch_size=4",
)
# Native and YaRN contexts of the tiny model; the stages of an FP8 build.
LONG = ("context.native=256", "context.long={max_seq_len: 1024, factor: 4.0}")
FP8 = ["quantize", "report", "checkpoint", "verify", "compile-native", "package"]


class Builds:
    """Builds on one machine into one root."""

    def __init__(self, root: Path, host: GpuHost) -> None:
        self.root, self.host = root, host
        self.out, self.cache = root / "out", root / "cache"
        self.text = ""

    def __call__(self, named: Path, *settings: str, **arguments: Any) -> BuildResult:
        stream = io.StringIO()
        handoff = read_handoff(named)
        given = settings if handoff is not None else (*SETTINGS, *settings)
        recipe = load_trtllm_recipe(str(named), [parse_set(text) for text in given])
        output = arguments.pop("output", self.out)
        try:
            return build_trtllm(
                recipe,
                output,
                reporter=PlainReporter(stream, stream),
                cache_folder=self.cache,
                handoff=handoff,
                **arguments,
            )
        finally:
            self.text = stream.getvalue()

    def fails(
        self, kind: type[EnginewrightError], named: Path, *settings: str, **arguments: Any
    ) -> EnginewrightError:
        with pytest.raises(kind) as caught:
            self(named, *settings, **arguments)
        assert "\n" not in caught.value.message + caught.value.hint
        assert caught.value.hint
        return caught.value

    @property
    def manifest(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.out / "manifest.json").read_bytes())
        return loaded


def names_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def run(build: Builds, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("enginewright"), *arguments]
    environment = {**os.environ, "ENGINEWRIGHT_CACHE": str(build.cache)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def settings() -> list[str]:
    return [part for text in SETTINGS for part in ("--set", text)]
