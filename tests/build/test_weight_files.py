"""Weights that are missing, damaged, unsafe or elsewhere are one clear error before any work starts."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_edits import refused, shard, write_index
from enginewright.checkpoint import open_checkpoint
from enginewright.expected_tensors import expected_tensors
from enginewright_model import read_model_spec
from safetensors.numpy import load_file, save_file


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "x.pth", "x.PKL", "model.gguf"])
def test_weights_in_a_format_that_can_run_code(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    error = refused(folder, "weights-not-safetensors", name)
    assert "save_pretrained" in error.hint


def test_no_weights_or_badly_named_ones(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    refused(folder, "weights-missing", "other.safetensors")
    (folder / "other.safetensors").unlink()
    refused(folder, "weights-missing")


def test_truncated_and_lying_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    refused(folder, "safetensors-invalid", "model.safetensors", "truncated")
    weights.write_bytes(b"\xff" * 8 + whole[8:])
    refused(folder, "safetensors-invalid", "model.safetensors", "limit")


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "C:x.safetensors",
     "x\0.safetensors", "..", ".", ".hidden.safetensors"],
)  # fmt: skip
def test_an_index_that_points_out_of_the_folder(folder: Path, name: str) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "model.safetensors")
    weight_map = shard(folder)
    write_index(folder, {**weight_map, "model.norm.weight": name})
    refused(folder, "shard-path", "model.safetensors.index.json")


def test_an_index_that_names_pickles(folder: Path) -> None:
    weight_map = shard(folder)
    write_index(folder, {**weight_map, "model.norm.weight": "pytorch_model.bin"})
    refused(folder, "weights-not-safetensors", "pytorch_model.bin")


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 1}, {"a": None}, "x"])
def test_an_index_that_is_none(folder: Path, weight_map: Any) -> None:
    shard(folder)
    write_index(folder, weight_map)
    refused(folder, "shard-index", "weight_map")


def test_links_that_leave_the_folder(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "config.json", "generation_config.json"):
        (folder / name).rename(outside / name)
        (folder / name).symlink_to(outside / name)
        refused(folder, "path-escapes", name)
        (folder / name).unlink()
        (outside / name).rename(folder / name)
    shard(folder)
    first = "model-00001-of-00002.safetensors"
    (folder / first).rename(outside / first)
    (folder / first).symlink_to(outside / first)
    refused(folder, "path-escapes", first)


def test_a_pipe_instead_of_weights_does_not_hang(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    refused(folder, "path-escapes", "not a regular file")


def test_a_shard_that_is_missing_or_whose_link_is_broken(folder: Path) -> None:
    shard(folder)
    second = folder / "model-00002-of-00002.safetensors"
    second.unlink()
    refused(folder, "shard-missing", second.name)
    second.symlink_to(folder / "gone")
    refused(folder, "shard-missing", second.name, "link")


def test_an_index_and_shards_that_disagree(folder: Path) -> None:
    weight_map = shard(folder)
    write_index(folder, {**weight_map, "model.norm.weight": sorted(set(weight_map.values()) - {
        weight_map["model.norm.weight"]})[0]})  # fmt: skip
    refused(folder, "shard-index", "model.norm.weight")
    write_index(folder, {**weight_map, "model.extra.weight": "model-00001-of-00002.safetensors"})
    refused(folder, "shard-index", "model.extra.weight")


def test_a_tensor_in_two_shards(folder: Path) -> None:
    shard(folder)
    first, second = (load_file(folder / f"model-0000{n}-of-00002.safetensors") for n in (1, 2))
    name = sorted(first)[0]
    save_file({**second, name: first[name]}, folder / "model-00002-of-00002.safetensors")
    refused(folder, "tensor-duplicate", name)


def test_a_sharded_checkpoint_of_32b_size_opens_fast(tmp_path: Path) -> None:
    """QwQ-32B's real dimensions in sparse files: only headers may be read."""
    config = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 5120,
        "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 8, "vocab_size": 152064, "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": False, "use_sliding_window": False,
        "max_window_layers": 64,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    expected = list(expected_tensors(read_model_spec(config)).items())
    weight_map = {}
    for number in range(14):
        fields, position = {}, 0
        for name, shape in expected[number::14]:
            end = position + 2 * int(np.prod(shape))
            fields[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, end]}
            position = end
            weight_map[name] = f"model-{number:05}.safetensors"
        raw = json.dumps(fields).encode()
        with (tmp_path / f"model-{number:05}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            file.truncate(8 + len(raw) + position)
    write_index(tmp_path, weight_map)
    started = time.process_time()
    checkpoint = open_checkpoint(tmp_path)
    assert time.process_time() - started < 2
    assert checkpoint.num_parameters == 32_763_876_352
    assert checkpoint.weight_bytes == 2 * 32_763_876_352
