"""engine.json: what is missing or impossible is named, with the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enginewright_errors import CheckpointError
from enginewright_onnx.runtime import read_engine_config

GOOD: dict[str, Any] = {
    "format": 1,
    "num_layers": 2,
    "num_kv_heads": 2,
    "head_dim": 64,
    "vocab_size": 512,
    "context": {
        "native": {"max_seq_len": 4096, "rope_offset": 0, "rope": {}},
        "long": {"max_seq_len": 100, "rope_offset": 4096, "rope": {}},
    },
    "limits": {"max_seq_len": 256, "max_batch_size": 4, "prefill_chunk": 32, "kv_budget_bytes": 1 << 30},
    "eos_token_ids": [2, 0],
    "threads": None,
}


def write(folder: Path, text: str) -> Path:
    (folder / "engine.json").write_text(text)
    return folder


def test_a_region_never_promises_more_than_a_slot_holds(tmp_path: Path) -> None:
    config = read_engine_config(write(tmp_path, json.dumps(GOOD)))
    assert (config.native.max_seq_len, config.long and config.long.max_seq_len) == (256, 100)
    assert config.eos_token_ids == (2, 0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: data.pop("num_layers"), "num_layers"),
        (lambda data: data["limits"].pop("prefill_chunk"), "prefill_chunk"),
        (lambda data: data["limits"].update(prefill_chunk=0), "prefill_chunk"),
        (lambda data: data.update(vocab_size="many"), "wrong type"),
        (lambda data: data.update(context=None), "wrong type"),
        (lambda data: data["context"]["native"].update(max_seq_len=0), "context.native"),
        (lambda data: data["context"]["long"].update(rope_offset=-1), "context.long"),
        (lambda data: data.update(format=2), "format 2"),
    ],
)
def test_a_damaged_engine_json_is_refused_by_field(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    data = json.loads(json.dumps(GOOD))
    change(data)
    with pytest.raises(CheckpointError, match=named) as caught:
        read_engine_config(write(tmp_path, json.dumps(data)))
    assert "engine.json" in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00"])
def test_what_is_no_engine_json_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CheckpointError, match=r"engine\.json"):
        read_engine_config(write(tmp_path, text))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        read_engine_config(tmp_path / "nowhere")
