"""Whatever the JSON files of a checkpoint hold, it loads, or the build ends in an error with a hint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enginewright.checkpoint import open_checkpoint
from enginewright.load_model import load_model
from enginewright.reference_logits import ReferenceSequence, reference_logits
from enginewright.torch_session import torch_session
from enginewright_errors import CheckpointError, EnginewrightError, StageFailed
from enginewright_model import read_token_ids
from hypothesis import given, settings
from hypothesis import strategies as st
from wild_json import wild_configs, wild_values

IDS = np.arange(5, dtype=np.int32)
# What transformers reads and this project does not.
ONLY_TRANSFORMERS = (
    "attention_dropout",
    "initializer_range",
    "use_cache",
    "pretraining_tp",
    "num_labels",
    "id2label",
    "return_dict",
    "tokenizer_class",
    "is_decoder",
    "transformers_version",
    "_attn_implementation",
)
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_k": 20, "eos_token_id": [2, 0]}


@pytest.fixture(scope="module")
def folder(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = tiny(hidden=32, intermediate=32, layers=1, heads=2, kv_heads=1)
    return Path(shutil.copytree(small, tmp_path_factory.mktemp("wild") / "checkpoint"))


@pytest.fixture(scope="module")
def config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


def load(folder: Path) -> bool:
    """Through everything that reads the checkpoint up to its logits; False where it is refused in words."""
    try:
        source = open_checkpoint(folder)
        read_token_ids(folder)
        with torch_session(1):
            load_model(source)
            (logits,) = reference_logits(folder, [ReferenceSequence(IDS)])
    except EnginewrightError as error:
        assert error.message and error.hint and error.exit_code in (2, 4)
        return False
    assert np.isfinite(logits).all()
    return True


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_value_of_any_field_loads_or_is_refused(
    folder: Path, config: dict[str, Any], data: st.DataObject
) -> None:
    wild = data.draw(wild_configs(config, *ONLY_TRANSFORMERS, "pad_token_id", "torch_dtype"))
    (folder / "config.json").write_text(json.dumps(wild))
    generation = data.draw(st.just(SAMPLING) | wild_configs(SAMPLING, "top_p", "max_length", "cache"))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    load(folder)


@settings(max_examples=25, deadline=None)
@given(unread=st.dictionaries(st.sampled_from(ONLY_TRANSFORMERS), wild_values(), min_size=1, max_size=4))
def test_what_only_transformers_reads_ends_no_build(
    folder: Path, config: dict[str, Any], unread: dict[str, Any]
) -> None:
    (folder / "config.json").write_text(json.dumps({**config, **unread, "pad_token_id": 1 << 20}))
    (folder / "generation_config.json").write_text(json.dumps({**SAMPLING, "cache_implementation": "x"}))
    assert load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "32"},
        {"num_hidden_layers": -1},
        {"intermediate_size": 0},
        {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e6, "factor": 2.0}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}},
        {"vocab_size": 513},
        {"num_hidden_layers": 2},
        {"torch_dtype": "float8_e4m3fn"},
        {"layer_types": "full_attention"},
    ],
)
def test_what_no_model_can_be_made_of_is_refused_before_anything_is_loaded(
    folder: Path, config: dict[str, Any], changes: dict[str, Any]
) -> None:
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(CheckpointError):
        open_checkpoint(folder)


def test_weights_that_vanish_after_they_were_checked_end_the_stage_in_words(
    folder: Path, config: dict[str, Any], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "config.json").write_text(json.dumps(config))
    source = open_checkpoint(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(StageFailed, match="cannot load") as caught:
        load_model(source)
    assert caught.value.exit_code == 4
