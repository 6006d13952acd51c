"""The ids that begin, end and pad a text come from generation_config.json, else from config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from enginewright_errors import CheckpointError
from enginewright_model import TokenIds, read_token_ids


def write(folder: Path, config: object, generation: object = None) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


CONFIG = {"bos_token_id": 151643, "eos_token_id": 151645}


def test_the_generation_config_stands_above_the_config(tmp_path: Path) -> None:
    given = {"eos_token_id": [151645, 151643], "pad_token_id": 151643, "bos_token_id": None}
    assert read_token_ids(write(tmp_path, CONFIG, given)) == TokenIds((151645, 151643), 151643, 151643)


def test_without_a_generation_config_the_config_says_it(tmp_path: Path) -> None:
    assert read_token_ids(write(tmp_path, CONFIG)) == TokenIds((151645,), None, 151643)


def test_a_checkpoint_may_name_none(tmp_path: Path) -> None:
    assert read_token_ids(write(tmp_path, {})) == TokenIds((), None, None)


@pytest.mark.parametrize("value", [[1, None], True, -1, "2", 1.0, 1 << 40, {"a": 1}])
def test_what_is_no_token_id_is_named(tmp_path: Path, value: object) -> None:
    with pytest.raises(CheckpointError, match="eos_token_id"):
        read_token_ids(write(tmp_path, CONFIG, {"eos_token_id": value}))
