"""Writes one safetensors file as a stream: the header first, then every tensor's bytes in its order."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from enginewright_errors import StageFailed
from numpy.typing import NDArray

from enginewright_trtllm.layout import Entry
from enginewright_trtllm.tensor_file import ITEM_SIZE

__all__ = ["SafetensorsWriter", "entry_bytes", "in_file_order"]


def entry_bytes(entry: Entry) -> int:
    """Bytes of an entry on one rank."""
    return math.prod(entry.shape) * ITEM_SIZE[entry.dtype]


def in_file_order(entries: Sequence[Entry]) -> list[Entry]:
    """Widest elements first, so that each tensor is aligned to its own element size.

    PyTorch's safetensors reader refuses to view an unaligned tensor.
    """
    return sorted(entries, key=lambda entry: -ITEM_SIZE[entry.dtype])


class SafetensorsWriter:
    """`with SafetensorsWriter(file, entries) as w:` then `w.write(...)` for each entry's bytes, in file
    order.

    `finish_entry` after each entry checks its length, so that a mistake in the arithmetic of a split fails at
    the tensor where it was made (StageFailed). Leaving the block normally fsyncs the file.
    """

    def __init__(self, file: Path, entries: Sequence[Entry]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for entry in entries:
            begin, end = end, end + entry_bytes(entry)
            header[entry.name] = {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "data_offsets": [begin, end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._file = file
        self._entries = iter(entries)
        self._current = next(self._entries, None)
        self._written = 0
        self._stream = file.open("wb")
        self._stream.write(len(text).to_bytes(8, "little") + text)

    def write(self, data: bytes | NDArray[np.uint8]) -> None:
        """Append bytes of the current entry; an array may be a strided view."""
        self._written += self._stream.write(
            data if isinstance(data, bytes) else np.ascontiguousarray(data).data
        )

    def write_zeros_to_end(self) -> None:
        """Fill the rest of the current entry: the padding rows of a vocabulary."""
        if self._current is not None:
            self.write(bytes(max(0, entry_bytes(self._current) - self._written)))

    def finish_entry(self) -> None:
        """Close the current entry. Raises StageFailed when its length is not the header's."""
        entry = self._current
        if entry is None or self._written != entry_bytes(entry):
            raise StageFailed(
                f"{self._file.name}: {self._written} bytes written for"
                f" {entry.name if entry else 'no tensor'}, {entry_bytes(entry) if entry else 0} announced",
                code="rank-file-length",
                hint="A defect of enginewright_trtllm's layout table: report it with the model's config.",
            )
        self._current, self._written = next(self._entries, None), 0

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stream:
            if kind is None:
                self._stream.flush()
                os.fsync(self._stream.fileno())
