"""What does not start says why in one line, at once, and leaves nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from enginewright_errors import StageFailed, UsageError
from enginewright_serve import TritonServer, find_triton
from package_manifest import write_manifest
from runtime.conftest import Traces

CONFIG, MODEL = "llm/config.pbtxt", "llm/1/model.py"
# name: file, what stands there, what shall stand there, the reason that must be given
FAULTS = {
    "unknown backend": (CONFIG, 'backend: "python"', 'backend: "nonsense"', "backend 'nonsense'"),
    "wrong name": (CONFIG, 'name: "llm"', 'name: "llx"', "unexpected directory name 'llm' for model 'llx'"),
    "not a config": (CONFIG, 'name: "llm"', 'nonsense: "llm"', "failed to read text proto from"),
    "syntax error": (MODEL, "import json", "import json((", "SyntaxError: invalid syntax (model.py"),
    "missing module": (MODEL, "import json", "import jsonx", "No module named 'jsonx'"),
    "no model class": (MODEL, "class TritonPythonModel", "class Other", "TritonPythonModel"),
    "model raises": (MODEL, 'self.fault == "raise"', "True", "model llm: ValueError: the engine is broken"),
    "model process dies": (
        MODEL,
        "self.cancelled, self.closing =",
        "os._exit(1) #",
        "'llm_0_0' is not healthy",
    ),
    "first token fails": (
        MODEL,
        'item.order == "die"',
        'item.fail("no kernel")',
        "generates nothing: no kernel",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_reason_is_given(
    fake_repository: Callable[..., Path], traces: Traces, tmp_path: Path, fault: str
) -> None:
    file, there, instead, reason = FAULTS[fault]
    repository = fake_repository()
    text = (repository / file).read_text()
    assert there in text
    (repository / file).write_text(text.replace(there, instead))
    write_manifest(repository)
    started = time.monotonic()
    with pytest.raises(StageFailed) as caught:
        TritonServer(repository, log=tmp_path / "log").start()
    assert reason in caught.value.message
    assert "\n" not in caught.value.message
    assert str(tmp_path / "log") in caught.value.hint
    assert time.monotonic() - started < 20
    assert traces.nothing_left()


def test_a_model_that_never_answers_is_given_up_and_ended_at_once(
    fake_repository: Callable[..., Path], traces: Traces, tmp_path: Path
) -> None:
    server = TritonServer(fake_repository(fault="mute"), log=tmp_path / "log", ready_timeout=3)
    started = time.monotonic()
    with pytest.raises(StageFailed) as caught:
        server.start()
    assert caught.value.message == "the server generated no token within 3 s"
    assert time.monotonic() - started < 3 + 3
    assert traces.nothing_left()


def test_the_log_of_a_failed_start_is_kept_and_nothing_else(
    fake_repository: Callable[..., Path], traces: Traces, tmp_path: Path
) -> None:
    with pytest.raises(StageFailed) as caught:
        TritonServer(fake_repository(fault="raise")).start()
    left = [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["tritonserver.log"]
    assert caught.value.hint == f"its log is {left[0]}"
    assert not traces.processes()


def test_a_missing_engine_file_is_named_before_anything_starts(
    fake_repository: Callable[..., Path], traces: Traces
) -> None:
    repository = fake_repository()
    file = repository / "llm" / "1" / "engine" / "model.onnx"
    file.unlink()
    with pytest.raises(UsageError, match=r"model\.onnx is missing") as caught:
        TritonServer(repository).start()
    assert "build-engine test" in caught.value.hint
    file.write_bytes(b"engi")
    with pytest.raises(UsageError, match=r"model\.onnx has 4 bytes, not 6"):
        TritonServer(repository).start()
    assert traces.nothing_left()


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "is not the manifest"),
        ('{"name": 1}', "is not the manifest"),
    ],
)
def test_a_folder_that_is_no_repository_is_refused(
    tmp_path: Path, manifest: str | None, problem: str
) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UsageError, match=rf"manifest\.json {problem}"):
        TritonServer(tmp_path).start()
    with pytest.raises(UsageError, match="is not a folder"):
        TritonServer(tmp_path / "nothing").start()


def test_a_log_that_cannot_be_written_is_refused(
    fake_repository: Callable[..., Path], traces: Traces
) -> None:
    with pytest.raises(UsageError, match="the log /proc/none/log cannot be written"):
        TritonServer(fake_repository(), log=Path("/proc/none/log")).start()
    assert traces.nothing_left()


def test_a_named_server_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not an executable file"):
        find_triton(tmp_path / "tritonserver")
    with pytest.raises(UsageError, match="is not an executable file"):
        find_triton(tmp_path)


def test_the_server_of_the_wheel_is_found() -> None:
    binary = find_triton()
    assert binary.executable.name == "tritonserver"
    assert all(folder.is_dir() for folder in binary.library_folders)
