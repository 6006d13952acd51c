"""The ONNX engine behind the front: what whoever starts the server decides about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from enginewright_errors import UsageError
from enginewright_front.onnx_backend import OnnxBackend
from enginewright_onnx import EngineOptions, write_engine


@pytest.fixture(scope="module")
def engine(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine") / "engine"
    write_engine(tiny(arch="qwen2"), folder, EngineOptions(max_seq_len=64, max_batch_size=2, threads=1))
    return folder


def threads_of(engine: Path) -> int:
    """How many threads of this process belong to an open engine."""
    before = len(list(Path("/proc/self/task").iterdir()))
    backend = OnnxBackend.open(engine, max_queue=4)
    try:
        return len(list(Path("/proc/self/task").iterdir())) - before
    finally:
        backend.close()


def test_the_servers_threads_stand_above_the_builds(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINEWRIGHT_THREADS", raising=False)
    threads_of(engine)  # the first session of a process starts a thread of its own
    built_with_one = threads_of(engine)
    monkeypatch.setenv("ENGINEWRIGHT_THREADS", "4")
    assert threads_of(engine) == built_with_one + 3


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "100000"])
def test_threads_that_cannot_be_are_named(engine: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ENGINEWRIGHT_THREADS", text)
    with pytest.raises(UsageError, match=f"ENGINEWRIGHT_THREADS is '{text}'"):
        OnnxBackend.open(engine, max_queue=4)
