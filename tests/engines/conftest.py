"""Quantized checkpoints, made once a session: by the real ModelOpt, and of random bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from engines.modelopt_tiny import quantize_tiny
from engines.trtllm_writing import Made
from trtllm_models import (
    SMALL,
    SMALL_AWQ,
    write_unified,
)


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


@pytest.fixture(scope="session")
def unifieds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Small unified checkpoints of QwQ's proportions, one for each quantization."""
    root = tmp_path_factory.mktemp("unified")
    return {
        quantization: (
            root / quantization,
            write_unified(
                root / quantization,
                quantization=quantization,
                **(SMALL_AWQ if quantization == "int4_awq" else SMALL),
            ),
        )
        for quantization in ("none", "fp8", "fp8kv", "int4_awq")
    }
