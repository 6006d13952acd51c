"""A checkpoint as an engine with float32 activations, for as long as a report needs answers from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from enginewright.durable import remove_tree
from enginewright.machine import available_memory, free_disk
from enginewright.units import format_bytes
from enginewright.weight_files import find_weight_files

if TYPE_CHECKING:
    from enginewright_onnx.runtime import ModelSession

__all__ = ["exact_engine", "why_no_exact_engine"]

_FLOAT = 4
_OVERHEAD = 1.25  # memory over the weights; measured with 135 M parameters: 1.15
_NO_LIMIT = 1 << 50  # of the KV cache: its size follows from the slots


def why_no_exact_engine(source: Path, folder: Path) -> str:
    """What keeps `exact_engine` of `source` from running here, "" if nothing does.

    source: not quantized. What was made of it is no larger as an engine.
    """
    shapes = (entry.shape for _, entry in find_weight_files(source).tensors.values())
    size = _FLOAT * sum(map(math.prod, shapes))
    needed, available = int(_OVERHEAD * size), available_memory()
    if needed > available:
        return (
            f"the original's own answers need {format_bytes(needed)} of memory, "
            f"{format_bytes(available)} are available"
        )
    disk = free_disk(folder)
    if size > disk:
        return f"the original's own answers need {format_bytes(size)} of disk, {format_bytes(disk)} are free"
    return ""


@contextmanager
def exact_engine(
    checkpoint: Path, folder: Path, *, max_seq_len: int, slots: int, threads: int | None
) -> Iterator[ModelSession]:
    """A session of `checkpoint`, quantized or not, that rounds nothing beside its weights.

    Its files are in `folder` until the end.
    """
    from enginewright_onnx import EngineOptions, write_engine
    from enginewright_onnx.runtime import ModelSession, read_engine_config

    options = EngineOptions(
        max_seq_len=max_seq_len,
        max_batch_size=slots,
        kv_budget_bytes=_NO_LIMIT,
        accuracy_level=0,
        lm_head="fp32",
        fp8_compute="fp32",
        threads=threads,
    )
    folder.mkdir()
    try:
        write_engine(checkpoint, folder, options)
        yield ModelSession.open(folder, read_engine_config(folder), threads=threads)
    finally:
        remove_tree(folder)
