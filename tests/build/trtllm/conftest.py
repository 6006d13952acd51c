"""A checkpoint of QwQ's proportions, and machines to build it on, with and without a GPU."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from gpu_host import H100, GpuHost
from trtllm_builds import Builds


@pytest.fixture(scope="session")
def checkpoint(tiny: Callable[..., Path]) -> Path:
    """QwQ's proportions: 40 query heads on 8 KV heads, biases on q, k and v."""
    return tiny(arch="qwen2", hidden=640, intermediate=256, layers=1, heads=40, kv_heads=8, dtype="bfloat16")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuHost:
    """A machine without a GPU, until a test gives it one."""
    made = GpuHost(tmp_path / "host")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture(scope="session")
def quantized(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the FP8 quantization and its report: they take seconds, and nearly every test needs
    them."""
    root = tmp_path_factory.mktemp("quantized")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/usr/bin:/bin")
        build = Builds(root / "root", GpuHost(root / "host"))
        build(checkpoint)
    return build.cache


@pytest.fixture
def build(tmp_path: Path, host: GpuHost, quantized: Path) -> Builds:
    made = Builds(tmp_path / "root", host)
    for stage in ("quantize", "report"):
        shutil.copytree(quantized / stage, made.cache / stage, copy_function=os.link)
    return made


@pytest.fixture
def gpu_build(build: Builds) -> Builds:
    """The same with a builder and an H100."""
    build.host.gpus(H100)
    build.host.builder()
    return build
