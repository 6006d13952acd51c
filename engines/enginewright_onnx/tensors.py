"""Reads a safetensors checkpoint tensor by tensor, without torch and without holding more than is asked for.

The `safetensors` library validates each file (header, offsets, sizes); the bytes are then read here, because
its numpy reader knows neither bfloat16 nor float8. Those come as `ml_dtypes`, a dependency of `onnx`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from enginewright_errors import CheckpointError
from safetensors import SafetensorError, safe_open

__all__ = ["CheckpointTensors", "open_tensors"]

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class CheckpointTensors:
    """The tensors of one checkpoint by name. A slice of rows costs its own bytes only.

    `on_read` is called with the bytes of each slice that is read.
    """

    def __init__(self, entries: dict[str, _Entry]) -> None:
        self._entries = entries
        self.on_read: Callable[[int], None] = lambda _: None

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        return sorted(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name).shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """The numpy dtype of `name`. Raises CheckpointError for one that no layer is made of."""
        entry = self._entry(name)
        if entry.dtype not in _DTYPES:
            raise CheckpointError(
                f"tensor {name} is of type {entry.dtype}",
                code="unsupported-dtype",
                hint=f"weights are read from {', '.join(_DTYPES)}",
            )
        return _DTYPES[entry.dtype]

    def nbytes(self, name: str) -> int:
        return int(np.prod(self.shape(name), dtype=np.int64)) * self.dtype(name).itemsize

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows `start:stop` of `name`; all of it, whatever its rank, when no row is named."""
        entry, dtype = self._entry(name), self.dtype(name)
        shape, offset = entry.shape, entry.offset
        if start or stop is not None:
            rows = range(shape[0])[start:stop]
            row_bytes = self.nbytes(name) // max(shape[0], 1)
            shape, offset = (len(rows), *shape[1:]), offset + rows.start * row_bytes
        # Not a memory map: its pages would count as the process's memory, up to the size of the checkpoint.
        count = int(np.prod(shape, dtype=np.int64))
        tensor = np.fromfile(entry.path, dtype, count, offset=offset).reshape(shape)
        self.on_read(tensor.nbytes)
        return tensor

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise CheckpointError(
                f"the checkpoint has no tensor {name}",
                code="missing-tensor",
                hint="the checkpoint is incomplete, or config.json describes another model",
            )
        return self._entries[name]


def open_tensors(folder: Path) -> CheckpointTensors:
    """The tensors of every *.safetensors file in `folder`; with an index, exactly the files that it names.

    Raises CheckpointError for a damaged file, a tensor in two files, or an index that is not true.
    """
    index = folder / "model.safetensors.index.json"
    expected = _weight_map(index) if index.exists() else None
    files = (
        sorted(set(expected.values()))
        if expected is not None
        else sorted(p.name for p in folder.glob("*.safetensors"))
    )
    if not files:
        raise CheckpointError(
            f"{folder} holds no *.safetensors file", code="missing-weights", hint="safetensors only"
        )
    entries: dict[str, _Entry] = {}
    for file in files:
        for name, entry in _header(folder / file).items():
            if name in entries:
                raise CheckpointError(
                    f"tensor {name} is in {entries[name].path.name} and in {file}",
                    code="duplicate-tensor",
                    hint="remove the file that does not belong to this checkpoint",
                )
            entries[name] = entry
    for name, file in (expected or {}).items():
        if name not in entries or entries[name].path.name != file:
            raise CheckpointError(
                f"{index.name} places tensor {name} in {file}, which does not hold it",
                code="index-mismatch",
                hint="download the checkpoint again",
            )
    return CheckpointTensors(entries)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        names = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} has no weight_map", code="malformed-index", hint="download the file again"
        ) from error
    for file in names.values():
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{index.name} names the file {file!r}",
                code="unsafe-path",
                hint="shards are *.safetensors files beside the index",
            )
    return names


def _header(path: Path) -> dict[str, _Entry]:
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file: {error}",
            code="damaged-weights",
            hint="download the file again",
        ) from error
    header.pop("__metadata__", None)
    return {
        name: _Entry(path, item["dtype"], tuple(item["shape"]), 8 + size + item["data_offsets"][0])
        for name, item in header.items()
    }
