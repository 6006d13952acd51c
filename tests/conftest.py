"""Fixtures shared by all tests: pinned threads and tiny checkpoints made once a session."""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# How long an example takes depends on what else the machine does.
settings.register_profile("any-machine", settings(), deadline=None)
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny(arch="qwen2", tied=False, ...)`: a tiny checkpoint's folder, made once for each set of arguments.

    The folder is shared: a test that changes it copies it first.
    """
    from tiny_models import write_tiny

    made: dict[str, Path] = {}

    def make(**arguments: object) -> Path:
        key = repr(sorted(arguments.items(), key=lambda item: item[0]))
        if key not in made:
            made[key] = write_tiny(tmp_path_factory.mktemp("tiny"), **arguments)  # type: ignore[arg-type]
        return made[key]

    return make
