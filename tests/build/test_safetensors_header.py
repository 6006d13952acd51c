"""A header is what an attacker or a broken download controls: it must neither crash, hang nor be believed."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enginewright.safetensors_header import read_safetensors_header
from enginewright_errors import CheckpointError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save, save_file

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, header: Any, body: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + body)
    return path


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_safetensors_header(path)
    assert caught.value.code == "safetensors-invalid"
    assert path.name in caught.value.message and caught.value.hint
    assert "\n" not in caught.value.message and len(caught.value.message) < 500
    return caught.value.message


def tensor(start: int, end: int, shape: list[int] | None = None, dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def test_extents_are_those_of_the_reference_library(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float16).reshape(2, 3),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(3.5, np.float32),
    }
    path = tmp_path / "x.safetensors"
    save_file(arrays, path, metadata={"format": "pt"})
    header = read_safetensors_header(path)
    raw = path.read_bytes()
    assert dict(header.metadata) == {"format": "pt"}
    assert {name: entry.shape for name, entry in header.tensors.items()} == {
        name: array.shape for name, array in arrays.items()
    }
    for name, entry in header.tensors.items():
        assert raw[entry.start : entry.end] == arrays[name].tobytes()


@pytest.mark.parametrize(
    ("header", "body", "says"),
    [
        (b"not json", b"", "not JSON"),
        (b"\xff\xfe", b"", "not JSON"),
        (b"[" * 100_000, b"", "not JSON"),
        (b'{"a": ' * 100_000, b"", "not JSON"),
        (b"[]", b"", "not a JSON object"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}}', b"x", "duplicate key 'a'"),
        ({"a": [1]}, b"", "needs exactly"),
        ({"a": {**tensor(0, 1), "device": "cpu"}}, b"x", "needs exactly"),
        ({"a": tensor(0, 4, [4], "F128")}, b"xxxx", "unknown dtype 'F128'"),
        ({"a": tensor(0, 4, [-1, -4])}, b"xxxx", "shape that is not"),
        ({"a": tensor(0, 1, [True])}, b"x", "shape that is not"),
        ({"a": tensor(0, 1, [1.0])}, b"x", "shape that is not"),  # type: ignore[list-item]
        ({"a": tensor(0, 1, [1] * 9)}, b"x", "shape that is not"),
        ({"a": tensor(0, 4, [2**62, 2**62])}, b"xxxx", "but holds 4"),
        ({"a": tensor(0, 4, [3])}, b"xxxx", "3 bytes, but holds 4"),
        ({"a": tensor(0, 4, [4], "F32")}, b"xxxx", "16 bytes, but holds 4"),
        ({"a": {**tensor(0, 4), "data_offsets": [4, 0]}}, b"xxxx", "not a range"),
        ({"a": {**tensor(0, 4), "data_offsets": [-4, 0]}}, b"xxxx", "not a range"),
        ({"a": tensor(0, 4), "b": tensor(2, 6)}, b"xxxxxx", "'b' overlaps"),
        ({"a": tensor(0, 4), "b": tensor(0, 4)}, b"xxxx", "overlaps"),
        ({"a": tensor(0, 4), "b": tensor(6, 8)}, b"x" * 8, "'b' leaves a gap"),
        ({"a": tensor(1, 4)}, b"xxxx", "'a' leaves a gap"),
        ({"a": tensor(0, 4)}, b"xxx", "is truncated"),
        ({"a": tensor(0, 4)}, b"xxxxx", "belong to no tensor"),
        ({"__metadata__": {"format": 1}}, b"", "__metadata__"),
        ({"__metadata__": []}, b"", "__metadata__"),
        ({"n" * 100_000: [1]}, b"", "needs exactly"),
    ],
)
def test_a_lying_header_is_refused_with_the_reason(
    tmp_path: Path, header: Any, body: bytes, says: str
) -> None:
    message = refused(write(tmp_path / "x.safetensors", header, body))
    assert says in message or len(message) > 300


def test_an_oversized_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for length in (2**63, 2**64 - 1, 100_000_001):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        tracemalloc.start()
        assert "the limit is" in refused(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20
    path.write_bytes(struct.pack("<Q", 90_000_000) + b"{}")
    assert "holds 10 bytes in all" in refused(path)


def test_every_truncation_of_a_file_is_noticed(tmp_path: Path) -> None:
    whole = save({"a": np.arange(9, dtype=np.float32), "b": np.zeros((2, 2), np.int8)})
    path = tmp_path / "x.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path)


@FUZZ
@given(raw=st.binary(max_size=400))
def test_random_bytes_never_crash(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    try:
        read_safetensors_header(path)
    except CheckpointError as error:
        assert error.code == "safetensors-invalid"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELD = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "U8", "I64", "F8_E4M3"]) | JSON,
        "shape": st.lists(st.integers(0, 4), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2).map(sorted) | JSON,
    }
)


@FUZZ
@given(
    header=st.dictionaries(st.sampled_from(["a", "b", "c", "__metadata__"]), FIELD | JSON, max_size=3),
    body=st.binary(max_size=40),
)
def test_what_is_accepted_the_reference_library_reads_alike(
    tmp_path: Path, header: dict[str, Any], body: bytes
) -> None:
    path = write(tmp_path / "x.safetensors", header, body)
    try:
        accepted = read_safetensors_header(path)
    except CheckpointError:
        return
    if any(entry.dtype == "F8_E4M3" for entry in accepted.tensors.values()):
        return  # numpy has no such dtype
    reference = load(path.read_bytes())
    assert {name: entry.shape for name, entry in accepted.tensors.items()} == {
        name: array.shape for name, array in reference.items()
    }


@FUZZ
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_one_changed_header_byte_is_refused_or_harmless(tmp_path: Path, position: int, value: int) -> None:
    whole = bytearray(save({"a": np.arange(9, dtype=np.float32), "b": np.zeros((2, 2), np.int8)}))
    whole[position % (8 + struct.unpack("<Q", whole[:8])[0])] = value
    path = tmp_path / "x.safetensors"
    path.write_bytes(whole)
    try:
        header = read_safetensors_header(path)
    except CheckpointError:
        return
    assert all(0 <= entry.start <= entry.end <= len(whole) for entry in header.tensors.values())
