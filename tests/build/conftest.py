"""Fixtures of the tests of the build."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checkpoint_edits import Tiny


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A private copy of a tiny Qwen2 checkpoint."""
    return Path(shutil.copytree(tiny(), tmp_path / "checkpoint"))
