"""Which checkpoints the ONNX engine reads: what everything here reads, less what its graph cannot express."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from enginewright_errors import CheckpointError
from enginewright_onnx.read_model import read_model


def test_tiny_checkpoints_of_transformers_are_read(tiny: Callable[..., Path]) -> None:
    assert read_model(tiny(arch="qwen2", tied=True)).tie_word_embeddings
    assert read_model(tiny(arch="llama", tied=False)).architecture == "llama"


def test_a_head_that_the_attention_operator_cannot_split_is_refused(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny(), tmp_path / "checkpoint"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"head_dim": 72}))
    with pytest.raises(CheckpointError, match="head_dim is 72"):
        read_model(folder)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_config_that_is_missing_or_no_object_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_model(tmp_path)
