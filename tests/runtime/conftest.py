"""Repositories with a fake model, and one real Triton that serves it for the whole session."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from enginewright_client import TritonClient
from enginewright_front.pbtxt import render_configs
from enginewright_serve import TritonServer

PARAMETERS = {"max_seq_len": "2048", "default.temperature": "0.5", "reasoning.open": "<think>"}


@pytest.fixture(scope="session")
def fake_repository(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`fake_repository(fault="raise")`: a packaged repository whose `llm` is fake_llm.py."""

    def make(**parameters: str) -> Path:
        folder = tmp_path_factory.mktemp("repository")
        version = folder / "llm" / "1"
        (version / "engine").mkdir(parents=True)
        (version / "engine" / "model.onnx").write_bytes(b"engine")
        shutil.copyfile(Path(__file__).with_name("fake_llm.py"), version / "model.py")
        config = render_configs({**PARAMETERS, **parameters})["llm"]
        (folder / "llm" / "config.pbtxt").write_text(config)
        files = {
            str(path.relative_to(folder)): {"bytes": path.stat().st_size}
            for path in folder.rglob("*")
            if path.is_file()
        }
        manifest = {"format": 1, "name": "fake", "chain": {"package": {"files": files}}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return make


@pytest.fixture(scope="session")
def fake_server(fake_repository: Callable[..., Path]) -> Iterator[TritonServer]:
    """A running Triton with the fake model."""
    with TritonServer(fake_repository()) as server:
        yield server


@pytest.fixture
def client(fake_server: TritonServer) -> Iterator[TritonClient]:
    """A client of the fake model."""
    with TritonClient(fake_server.grpc_address) as client:
        yield client


@pytest.fixture
def eventually() -> Callable[[Callable[[], object], str], None]:
    """`eventually(condition, what)`: wait until `condition()` holds, fail after 10 s."""

    def wait(condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.01)

    return wait
