"""Checkpoints that the real ModelOpt quantized, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from engines.modelopt_tiny import quantize_tiny


@pytest.fixture(scope="session")
def quantized(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`quantized("int4_awq", arch="qwen2", ...)`: the unified checkpoint of that tiny model, made once.

    The folder is shared: a test that changes it copies it first.
    """
    made: dict[str, Path] = {}

    def make(quantization: str, *, group_size: int = 128, **arguments: object) -> Path:
        key = repr((quantization, group_size, sorted(arguments.items())))
        if key not in made:
            out = tmp_path_factory.mktemp("quantized") / "checkpoint"
            made[key] = quantize_tiny(tiny(**arguments), out, quantization, group_size=group_size)
        return made[key]

    return make
