"""Repositories with a fake model, one real Triton that serves it, and what is left of others."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from enginewright_client import TritonClient
from enginewright_front.pbtxt import render_configs
from enginewright_front.repository import write_repository
from enginewright_onnx import EngineOptions, write_engine
from enginewright_serve import TritonServer
from package_manifest import write_manifest

PARAMETERS = {"max_seq_len": "2048", "default.temperature": "0.5", "reasoning.open": "<think>"}
THINKING = {
    "reasoning.open": "<think>",
    "reasoning.close": "</think>",
    "reasoning.opened_by_template": "false",
    "model": "qwq-tiny",
}
WAIT_SECONDS = 60.0


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition()` holds; fail with `what` after a minute."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def metric(server: TritonServer, name: str) -> float:
    """The sum of the figures whose names begin with `name`."""
    lines = urlopen(f"http://{server.metrics_address}/metrics", timeout=10).read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


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
        write_manifest(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_engine(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine folder of a Qwen2 with random weights: 4 slots, 4096 tokens."""
    folder = tmp_path_factory.mktemp("engine") / "engine"
    options = EngineOptions(
        max_seq_len=4096, max_batch_size=4, accuracy_level=0, lm_head="fp32", fp8_compute="fp32", threads=1
    )
    write_engine(tiny(arch="qwen2", max_position=4096), folder, options)
    return folder


@pytest.fixture(scope="session")
def tiny_repository(
    tiny_engine: Path, tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`tiny_engine`, packaged; 32 requests may wait."""
    folder = tmp_path_factory.mktemp("packaged")
    checkpoint = tiny(arch="qwen2", max_position=4096)
    write_repository(folder, engine=tiny_engine, checkpoint=checkpoint, name="tiny", max_queue=32)
    write_manifest(folder)
    return folder


@pytest.fixture(scope="session")
def shared_server(fake_repository: Callable[..., Path]) -> Iterator[TritonServer]:
    """One Triton with the fake model for all tests; they ask for `fake_server`."""
    with TritonServer(fake_repository()) as server:
        yield server


@pytest.fixture
def fake_server(shared_server: TritonServer) -> TritonServer:
    """A running Triton with the fake model. Should it have died, one test fails of it and not a hundred."""
    if (trouble := shared_server.trouble(0)) is not None:
        print(trouble, shared_server.log.read_text()[-2000:], sep="\n")
        shared_server.restart()
    return shared_server


@pytest.fixture
def client(fake_server: TritonServer) -> Iterator[TritonClient]:
    """A client of the fake model."""
    with TritonClient(fake_server.grpc_address) as client:
        yield client


class Traces:
    """What the servers of one test have on this machine: known by their TMPDIR, which only they have."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()

    def processes(self) -> dict[str, int]:
        """Process ids by command: keeper.py, tritonserver, triton_python_backend_stub."""
        mark = f"TMPDIR={self._folder}".encode()
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if int(process.name) != os.getpid() and mark in (process / "environ").read_bytes().split(
                    b"\0"
                ):
                    words = [
                        Path(os.fsdecode(word)).name
                        for word in (process / "cmdline").read_bytes().split(b"\0")
                    ]
                    found["keeper.py" if "keeper.py" in words else words[0]] = int(process.name)
        return found

    def shared_memory(self) -> list[str]:
        """The regions of every server that was seen by an earlier call."""
        self._names |= {path.name for path in self._folder.glob("enginewright-serve-*")}
        return [path.name for name in self._names for path in Path("/dev/shm").glob(f"{name}_*")]

    def access_copies(self) -> list[Path]:
        """Files that containers are given."""
        return list(self._folder.glob("enginewright-serve-*/access/*"))

    def nothing_left(self) -> bool:
        return not (self.processes() or self.shared_memory() or any(self._folder.iterdir()))


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Traces:
    """Of the servers that this test starts, in this process or in others."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return Traces(folder)
