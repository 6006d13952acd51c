"""Safetensors files read by position: headers up front, then any rows of any tensor through one small buffer.

Nothing is mapped: pages of a mapped file count as resident memory, and a 32B checkpoint would look like one.
Format: https://github.com/huggingface/safetensors (8 bytes of header length, JSON header, data).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from enginewright_errors import CheckpointError
from numpy.typing import NDArray

__all__ = ["BLOCK_BYTES", "ITEM_SIZE", "TensorRef", "open_tensors", "read_blocks", "read_header"]

ITEM_SIZE = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1}
BLOCK_BYTES = 16 << 20
_MAX_HEADER = 100 << 20  # the limit of the safetensors library


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where a tensor's bytes are: row major, little endian, `dtype` a safetensors code."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * ITEM_SIZE[self.dtype]

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes


def read_header(file: Path) -> dict[str, TensorRef]:
    """The tensors of one safetensors file. Raises CheckpointError for a file that is missing, cut or not
    one."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(size - 8, _MAX_HEADER):
                raise ValueError(f"header length {length} in a file of {size} bytes")
            header = json.loads(stream.read(length))
        return {
            name: _tensor_ref(file, name, entry, 8 + length, size)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise CheckpointError(
            f"{file.name}: not a whole safetensors file ({error})",
            code="safetensors-damaged",
            hint="Fetch or write this file again.",
        ) from error


def open_tensors(folder: Path) -> dict[str, TensorRef]:
    """Every tensor of a Hugging Face checkpoint folder, single or sharded. Raises CheckpointError."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{folder}: no .safetensors file",
            code="safetensors-missing",
            hint="Give the folder of a checkpoint in safetensors format.",
        )
    tensors: dict[str, TensorRef] = {}
    for file in files:
        for name, ref in read_header(file).items():
            if name in tensors:
                raise CheckpointError(
                    f"tensor {name} is in {tensors[name].file.name} and in {file.name}",
                    code="tensor-twice",
                    hint="Remove the files that do not belong to this checkpoint.",
                )
            tensors[name] = ref
    return tensors


def read_blocks(ref: TensorRef, block_bytes: int | None = None) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(first row, bytes [rows, row_bytes]) of a tensor, in order; a block is valid until the next one is
    read."""
    rows_each = max(1, (block_bytes or BLOCK_BYTES) // max(1, ref.row_bytes))
    buffer = np.empty((min(rows_each, ref.rows), ref.row_bytes), np.uint8)
    with ref.file.open("rb", buffering=0) as stream:
        for first in range(0, ref.rows, rows_each):
            block = buffer[: min(rows_each, ref.rows - first)]
            _read_exactly(stream.fileno(), block, ref.offset + first * ref.row_bytes, ref)
            yield first, block


def _read_exactly(descriptor: int, block: NDArray[np.uint8], position: int, ref: TensorRef) -> None:
    view = block.reshape(-1).data
    while view:
        got = os.preadv(descriptor, [view], position)
        if got == 0:
            raise CheckpointError(
                f"{ref.file.name} ended while it was read",
                code="safetensors-damaged",
                hint="Do not change a checkpoint while it is converted; run again.",
            )
        view = view[got:]
        position += got


def _tensor_ref(file: Path, name: str, entry: Mapping[str, Any], base: int, size: int) -> TensorRef:
    begin, end = entry["data_offsets"]
    ref = TensorRef(file, str(entry["dtype"]), tuple(int(n) for n in entry["shape"]), base + int(begin))
    if ref.dtype not in ITEM_SIZE:
        raise ValueError(f"tensor {name} has dtype {ref.dtype}")
    if begin < 0 or any(n < 0 for n in ref.shape) or end - begin != ref.nbytes or base + end > size:
        raise ValueError(f"tensor {name} lies at {begin}..{end}, shape {list(ref.shape)}")
    return ref
