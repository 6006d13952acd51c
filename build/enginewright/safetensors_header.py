"""The header of a safetensors file: read, bounded and checked, without touching the tensors.

A safetensors file is `u64 little-endian header length | JSON header | tensor bytes`. The header is the part
that an attacker, or a broken download, controls, so nothing in it is believed before it agrees with the
file's size and with itself. Format: https://github.com/huggingface/safetensors (README, "Format").
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import CheckpointError

__all__ = ["DTYPE_BYTES", "SafetensorsHeader", "TensorEntry", "read_safetensors_header"]

DTYPE_BYTES: Mapping[str, int] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip

# The bound of the reference implementation; a shard of a 32B model has about 20 kB of header.
MAX_HEADER_BYTES = 100_000_000
MAX_RANK = 8


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: `start` and `end` are byte offsets from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """The tensors of one file, in the order of their bytes, and the file's metadata strings."""

    path: Path
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_safetensors_header(path: Path) -> SafetensorsHeader:
    """Read and check the header of `path`.

    Every tensor must have a known dtype, a shape whose bytes equal its extent, and extents that fill the file
    from the end of the header to its last byte without a gap or an overlap. At most `MAX_HEADER_BYTES`, and
    never more than the file holds, are read.

    Raises:
        CheckpointError: `safetensors-invalid`, with the file's name and what is wrong with it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise _invalid(path, f"is {size} bytes long, too short for a safetensors header")
            length = int.from_bytes(prefix, "little")
            if length > MAX_HEADER_BYTES:
                raise _invalid(path, f"claims a header of {length} bytes; the limit is {MAX_HEADER_BYTES}")
            if 8 + length > size:
                raise _invalid(path, f"claims a header of {length} bytes but holds {size} bytes in all")
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(
            f"{path.name} cannot be read: {error.strerror or error}",
            code="checkpoint-unreadable",
            hint=f"make {path} readable",
        ) from error
    fields = _parse(path, raw)
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _invalid(path, "has a __metadata__ that is not a map of strings")
    entries = sorted((_entry(path, name, field, 8 + length) for name, field in fields.items()), key=_extent)
    position = 8 + length
    for entry in entries:
        if entry.start != position:
            what = "overlaps the tensor before it" if entry.start < position else "leaves a gap before it"
            raise _invalid(
                path, f"tensor {entry.name!r} {what} (starts at {entry.start}, expected {position})"
            )
        position = entry.end
    if position != size:
        what = "is truncated" if position > size else "has bytes that belong to no tensor"
        raise _invalid(path, f"{what}: its tensors end at byte {position}, the file at {size}")
    return SafetensorsHeader(path, {entry.name: entry for entry in entries}, metadata)


def _extent(entry: TensorEntry) -> tuple[int, int]:
    return entry.start, entry.end


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _invalid(path, f"has a header that is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise _invalid(path, "has a header that is not a JSON object")
    return fields


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"duplicate key {name!r}")
        fields[name] = value
    return fields


def _entry(path: Path, name: str, field: Any, base: int) -> TensorEntry:
    if not isinstance(field, dict) or set(field) != {"dtype", "shape", "data_offsets"}:
        raise _invalid(path, f"tensor {name!r} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _invalid(path, f"tensor {name!r} has the unknown dtype {dtype!r}")
    if not _naturals(shape) or len(shape) > MAX_RANK:
        raise _invalid(path, f"tensor {name!r} has a shape that is not a list of sizes: {shape!r}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _invalid(path, f"tensor {name!r} has data_offsets that are not a range: {offsets!r}")
    wanted = math.prod(shape) * DTYPE_BYTES[dtype]
    if offsets[1] - offsets[0] != wanted:
        raise _invalid(
            path, f"tensor {name!r} is {dtype} {shape}, {wanted} bytes, but holds {offsets[1] - offsets[0]}"
        )
    return TensorEntry(name, dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _invalid(path: Path, problem: str) -> CheckpointError:
    # A lying header may carry megabytes of names: an error line stays a line.
    text = problem if len(problem) <= 300 else problem[:297] + "..."
    separator = ": " if text.startswith("tensor ") else " "
    return CheckpointError(
        f"{path.name}{separator}{text}",
        code="safetensors-invalid",
        hint=f"{path} is damaged or was not written by safetensors: download it again",
    )
