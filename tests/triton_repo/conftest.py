"""A packaged-like checkpoint folder and the pieces of a front around a scripted engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from triton_repo.spelling import byte_level


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizer, chat template and generation config of a checkpoint; no weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    byte_level(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    return folder
