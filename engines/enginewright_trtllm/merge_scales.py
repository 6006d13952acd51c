"""One FP8 scale for q, k and v, and one for gate and up, in a unified checkpoint as in the rank files.

TensorRT-LLM has one weight scale for each of these groups, ModelOpt 0.47's unified export has one for each
projection (see `fp8_weights`). Merged before anything is measured, what is measured is what is shipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enginewright_trtllm.fp8_weights import quantized_blocks
from enginewright_trtllm.layout import Source
from enginewright_trtllm.parallel import Parallel
from enginewright_trtllm.rank_files import read_scalars
from enginewright_trtllm.tensor_file import TensorRef, open_tensors
from enginewright_trtllm.unified import check_tensors, open_unified, stages

__all__ = ["merge_scales"]


def merge_scales(unified: Path, original: Path) -> int:
    """Quantize the weights of `unified` anew whose scale is not the largest of their group; returns how many.

    unified: an FP8 checkpoint, changed in place: codes and scales keep their sizes. original: the checkpoint
    that was quantized; weights are rounded from it, not twice. Raises CheckpointError where it is another.
    """
    opened = open_unified(unified)
    entries = [entry for entry in stages(opened, Parallel(1, 1))[0] if entry.scales]
    scalars = read_scalars(opened.tensors, sorted({name for entry in entries for name in entry.scales}))
    merged = {
        source.name: max(scalars[name] for name in entry.scales)
        for entry in entries
        for source in entry.sources
    }
    smaller = [name for name, scale in merged.items() if scalars[f"{name}_scale"] != scale]
    held = open_tensors(original)
    check_tensors(held, [_original(name, opened.tensors[name]) for name in smaller])
    for name in smaller:
        own, scale = scalars[f"{name}_scale"], merged[name]
        for first, codes in quantized_blocks(held[name], opened.tensors[name], own_scale=own, scale=scale):
            _overwrite(opened.tensors[name], first, codes.tobytes())
        _overwrite(opened.tensors[f"{name}_scale"], 0, np.float32(scale).tobytes())
    return len(smaller)


def _original(name: str, quantized: TensorRef) -> Source:
    return Source(name, quantized.shape, ("BF16", "F16", "F32"))


def _overwrite(tensor: TensorRef, first: int, data: bytes) -> None:
    """Write `data` from row `first` on."""
    with tensor.file.open("r+b") as stream:
        stream.seek(tensor.offset + first * tensor.row_bytes)
        stream.write(data)
