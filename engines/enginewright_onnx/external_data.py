"""Streams initializers into model.onnx.data, so that a graph never holds its weights in memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

__all__ = ["ExternalData"]

# ONNX Runtime maps the file: a tensor that starts on a page is used where it lies.
_ALIGNMENT = 4096


class ExternalData:
    """A context manager over one new external data file; each tensor is written as it arrives.

    Raises FileExistsError when the file exists: an engine is written once, into a folder of its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._size = 0

    def __enter__(self) -> ExternalData:
        self._file = self._path.open("xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def nbytes(self) -> int:
        return self._size

    def write(
        self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], chunks: Iterable[npt.NDArray[Any]]
    ) -> TensorProto:
        """Append `chunks`, which together are the tensor `name` in C order; returns its proto.

        Raises ValueError when the chunks do not add up to `shape`: the caller's mistake.
        """
        if self._file is None:
            raise ValueError("external data is written inside its `with` block")
        start = -(-self._size // _ALIGNMENT) * _ALIGNMENT
        self._file.write(b"\0" * (start - self._size))
        written = 0
        for chunk in chunks:
            data = np.ascontiguousarray(chunk, dtype)
            self._file.write(data.reshape(-1).view(np.uint8).data)
            written += data.nbytes
        expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if written != expected:
            raise ValueError(
                f"{name}: {written} bytes were written, {list(shape)} of {dtype} needs {expected}"
            )
        self._size = start + written
        return self._proto(name, dtype, shape, start, written)

    def _proto(
        self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], start: int, length: int
    ) -> TensorProto:
        proto = TensorProto(
            name=name,
            data_type=onnx.helper.np_dtype_to_tensor_dtype(dtype),
            dims=shape,
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (("location", self._path.name), ("offset", start), ("length", length)):
            entry = proto.external_data.add()
            entry.key, entry.value = key, str(value)
        return proto
