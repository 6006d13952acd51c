"""Reading safetensors: every dtype of a checkpoint, shards, slices, and files that lie."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from enginewright_errors import CheckpointError
from enginewright_onnx.tensors import open_tensors
from safetensors.torch import save_file

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.uint8]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_of_a_checkpoint_is_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randint(0, 100, (6, 5)).to(dtype)
    save_file({"before": torch.zeros(3), "weight": values}, tmp_path / "model.safetensors")
    tensors = open_tensors(tmp_path)
    np.testing.assert_array_equal(tensors.read("weight").astype(np.float64), values.double().numpy())
    np.testing.assert_array_equal(
        tensors.read("weight", 2, 5).astype(np.float64), values[2:5].double().numpy()
    )
    assert tensors.nbytes("weight") == values.nbytes


def test_a_scalar_is_read(tmp_path: Path) -> None:
    save_file({"scale": torch.tensor(0.25)}, tmp_path / "model.safetensors")
    assert open_tensors(tmp_path).read("scale") == np.float32(0.25)


def test_what_is_read_is_reported_by_the_byte(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(8, 4)}, tmp_path / "model.safetensors")
    tensors = open_tensors(tmp_path)
    reported: list[int] = []
    tensors.on_read = reported.append
    tensors.read("weight", 0, 3)
    tensors.read("weight")
    assert reported == [48, 128]


def write_shards(folder: Path, weight_map: object) -> None:
    save_file({"a": torch.full((2,), 1.0)}, folder / "one.safetensors")
    save_file({"b": torch.full((2,), 2.0)}, folder / "two.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    (tmp_path / "stray.safetensors").write_bytes(b"not part of the checkpoint")
    tensors = open_tensors(tmp_path)
    assert tensors.names() == ["a", "b"]
    assert tensors.read("b")[0] == 2.0


@pytest.mark.parametrize(
    ("weight_map", "code"),
    [
        ({"a": "two.safetensors", "b": "one.safetensors"}, "index-mismatch"),
        ({"a": "one.safetensors", "missing": "two.safetensors"}, "index-mismatch"),
        ({"a": "absent.safetensors"}, "damaged-weights"),
        ({"a": "../one.safetensors"}, "unsafe-path"),
        ({"a": "/etc/passwd"}, "unsafe-path"),
        ({"a": "pytorch_model.bin"}, "unsafe-path"),
        (["a"], "malformed-index"),
        (None, "malformed-index"),
    ],
)
def test_an_index_that_is_not_true_is_refused(tmp_path: Path, weight_map: object, code: str) -> None:
    write_shards(tmp_path, weight_map)
    with pytest.raises(CheckpointError) as caught:
        open_tensors(tmp_path)
    assert caught.value.code == code


def test_a_tensor_in_two_files_is_refused_by_name(tmp_path: Path) -> None:
    for file in ("one.safetensors", "two.safetensors"):
        save_file({"twice": torch.zeros(2)}, tmp_path / file)
    with pytest.raises(CheckpointError, match="twice"):
        open_tensors(tmp_path)


@pytest.mark.parametrize(
    "size", [0, 4, 20, -1], ids=["empty", "no header size", "half a header", "a byte short"]
)
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, size: int) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(64)}, file)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
        open_tensors(tmp_path)
    assert caught.value.code == "damaged-weights"


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    header = json.dumps(
        {"weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)
    with pytest.raises(CheckpointError) as caught:
        open_tensors(tmp_path)
    assert caught.value.code == "damaged-weights"


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match="safetensors"):
        open_tensors(tmp_path)


def test_a_dtype_that_no_weight_has_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2, dtype=torch.int64)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="weight is of type I64"):
        open_tensors(tmp_path).read("weight")


def test_a_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        open_tensors(tmp_path).read("model.norm.weight")
