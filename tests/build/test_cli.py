"""The commands as a user runs them: exit codes, two lines for an error, JSON that parses."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enginewright import cli

TESTS = Path(__file__).parents[1]
SMALL = (
    "--qformat", "none", "--set", "verify={samples: 1, length: 16, max_kl: 10.0, min_top1: 0.0}",
    "--set", "report={samples: 1, length: 16, prompts: 1, answer_tokens: 4, items: 1}",
    "--set", "gate={max_kl: 10.0, min_top1: 0.0, max_perplexity_ratio: 100.0}",
    "--memory-bandwidth", "40GB/s",
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tiny: Callable[..., Path]) -> Path:
    return tiny(arch="qwen2", hidden=64, intermediate=128, layers=1, heads=2, kv_heads=1)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "cli-cache"
    monkeypatch.setenv("ENGINEWRIGHT_CACHE", str(folder))
    return folder


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`run("build", ...)`: exit code, stdout, stderr of `enginewright`; `engine=True` for `build-engine`."""

    def call(*arguments: object, engine: bool = False) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["x", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            (cli.build_engine_main if engine else cli.main)()
        out, errors = capfd.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), out, errors

    return call


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_build_verify_and_build_again(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, out, errors = run(checkpoint, "--output", tmp_path / "out", *SMALL, engine=True)
    assert (code, errors) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"plan for {checkpoint.name}: qwen2")
    assert lines[-1].startswith(f"built: {tmp_path / 'out'} (manifest ")
    code, verified, _ = run("verify", tmp_path / "out")
    assert code == 0
    assert verified.rstrip().endswith(lines[-1].rpartition(" (")[2])
    code, out, _ = run("build", checkpoint, "-o", tmp_path / "out", *SMALL)
    assert code == 0
    assert out.count(" reused ") == 5
    assert "unchanged: " in out
    (tmp_path / "out" / "llm" / "1" / "front.json").unlink()
    code, out, errors = run("verify", tmp_path / "out")
    assert code == 5
    assert "llm/1/front.json is missing" in errors


def test_json_events_end_with_the_result(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, out, errors = run("build", checkpoint, "-o", tmp_path / "out", "--json", *SMALL)
    assert (code, errors) == (0, "")
    told = events(out)
    assert told[0]["plan"]["fits"] is True
    assert told[-1]["event"] == "result"
    assert told[-1]["ok"] is True
    assert set(told[-1]["reused"]) == {"quantize", "compile", "verify", "report", "package"}
    code, out, _ = run("verify", tmp_path / "out", "--json")
    assert events(out)[-1]["manifest_sha256"] == told[-1]["manifest_sha256"]
    code, out, errors = run("build", checkpoint, "-o", tmp_path / "out", "--json", "--max-batch-size", "0")
    assert code == 2
    assert events(out)[-1]["error"]["code"] == "recipe-field"
    assert events(out)[-1]["ok"] is False
    assert errors.startswith("error: --max-batch-size: engine.max_batch_size is 0")


def test_plan_stops_after_the_plan(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    for arguments in (("plan", checkpoint), ("build", checkpoint, "--plan")):
        code, out, _ = run(*arguments, "-o", tmp_path / "out", *SMALL)
        assert code == 0
        assert "quantize" in out
        assert list(tmp_path.iterdir()) == []
    code, out, _ = run("plan", checkpoint, "-o", tmp_path / "out", "--json", *SMALL)
    assert events(out)[-1]["plan"]["sizes"]["parameters"] > 0
    budget = ("--set", "engine.kv_budget=9TiB")
    code, _, _ = run("plan", checkpoint, "-o", tmp_path / "out", *SMALL, *budget)
    assert code == 0, "a budget is an upper bound: what the sequences need counts"


def test_a_plan_that_does_not_fit_exits_with_3(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginewright.machine.available_memory", lambda: 2**20)
    for arguments in (("plan", checkpoint), ("build", checkpoint, "--plan"), ("build", checkpoint)):
        code, out, errors = run(*arguments, "-o", tmp_path / "out", *SMALL)
        assert code == 3
        assert "does not fit: quantize needs" in out
        assert errors.startswith("error: ")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["build", "nowhere"], 2, "there is no recipe or folder nowhere"),
        (["build", "CHECKPOINT", "--qformat", "int5"], 2, "--qformat: quantization.format is 'int5'"),
        (["build", "CHECKPOINT", "--group_size", "100"], 2, "--group-size: quantization.group_size is 100"),
        (["build", "CHECKPOINT", *SMALL, "--max_seq_len", "9999"], 2, "beyond the model's 512 positions"),
        (["build", "CHECKPOINT", "--tp-size", "2"], 2, "--tp-size 2"),
        (["build", "CHECKPOINT", "--set", "engine.thread=2"], 2, "engine.thread is not a known field"),
        (["build", "CHECKPOINT", "--set", "nonsense"], 2, "no FIELD=VALUE"),
        (["build", "CHECKPOINT", "--revision", "main"], 2, "checkpoint.revision is 'main'"),
        (["build", "CHECKPOINT", "--memory-bandwidth", "fast"], 2, "--memory-bandwidth"),
        (["build", "CHECKPOINT"], 2, "group_size: 128 does not divide"),
        (["verify", "."], 2, "manifest.json cannot be read"),
        (["build", "CHECKPOINT", "--max-sqe-len", "5"], 2, "No such option"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_a_mistake_is_one_clear_line_and_an_exit_code(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], code: int, says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found, _, errors = run(*(str(checkpoint) if item == "CHECKPOINT" else item for item in arguments))
    assert found == code
    assert says in errors
    assert "Traceback" not in errors
    first, second = errors.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("hint: ")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_known_flags_reach_their_fields(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "plan", checkpoint, "-o", tmp_path, "--json", "--qformat", "int4-awq", "--group_size", "32",
        "--max-seq-len", "256", "--max_num_tokens=64", "--max-batch-size", "3", "--calib-size", "5",
        "--tp-size", "1", "--set", "engine.threads=2",
    )  # fmt: skip
    assert code == 0
    sizes = events(out)[-1]["plan"]["sizes"]
    assert (sizes["sequences"], sizes["slot_tokens"]) == (3, 256)


def test_debug_adds_the_traceback(run: Run) -> None:
    _, _, errors = run("build", "nowhere", "--debug")
    assert "Traceback" in errors
    assert errors.splitlines()[-2].startswith("error: ")


def test_help_teaches(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in ("build", "plan", "verify", "serve", "ask", "demo"):
        assert command in out
        code, _, _ = run(command, "--help")
        assert code == 0
    code, out, _ = run("-h", engine=True)
    assert "build-engine ./Qwen2.5-0.5B --qformat fp8 -o out    a checkpoint folder\n" in out
    code, out, _ = run("--version")
    assert (code, out) == (0, "0.1.0\n")


def test_a_missing_extra_is_one_clear_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path
) -> None:
    monkeypatch.setitem(sys.modules, "enginewright.app", None)
    monkeypatch.delitem(sys.modules, "enginewright.app")

    class Missing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "typer":
                raise ModuleNotFoundError("No module named 'typer'", name="typer")

    for name in [name for name in sys.modules if name.split(".")[0] == "typer"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    code, _, errors = run("plan", checkpoint)
    assert code == 2
    assert (
        errors == "error: the Python package typer is not installed\nhint: pip install 'enginewright[cpu]'\n"
    )


def test_a_path_that_nothing_can_have_is_one_clear_line(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    long, home = "x" * 300, "~nobody-of-that-name/x"
    for path in (long, tmp_path / long, home, tmp_path / "loop"):
        for command in (
            ("plan", path),
            ("plan", checkpoint, "--set", f"checkpoint.source={path}"),
            ("build", checkpoint, *SMALL, "-o", path),
            ("verify", path),
            ("serve", path),
            ("report", path),
        ):
            code, out, errors = run(*command)
            assert (code, out) == (2, ""), (command, errors)
            assert errors.startswith("error: ") and "\nhint: " in errors, command


@pytest.mark.parametrize(
    ("to", "code", "says"),
    [(">&-", 0, ""), (">/dev/full", 4, "error: the output cannot be used: No space left on device")],
)
def test_a_stdout_that_takes_nothing_is_no_traceback(checkpoint: Path, to: str, code: int, says: str) -> None:
    command = (
        f"{sys.executable} -c 'from enginewright.cli import main; main()' plan {checkpoint} --qformat none"
    )
    line = f"{command} --memory-bandwidth 40GB/s {to}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stderr.partition("\n")[0]) == (code, says)


@pytest.mark.parametrize("stage", ["quantize", "verify"])
def test_ctrl_c_in_a_stage_leaves_nothing_and_says_how_to_go_on(
    checkpoint: Path, tmp_path: Path, stage: str
) -> None:
    command = [
        sys.executable, "-c", "from enginewright.cli import build_engine_main; build_engine_main()",
        str(checkpoint), "--json", "--output", str(tmp_path / "out"), "--set", "quantization.group_size=64",
        "--set", "quantization.calibration.length=128", *SMALL[2:],
    ]  # fmt: skip
    environment = {**os.environ, "ENGINEWRIGHT_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if json.loads(line).get("event") == "stage-started" and json.loads(line)["stage"] == stage:
                break
        select.select([process.stdout], [], [], 0.5)  # well inside the stage, or at its end
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
        seconds = time.monotonic() - start
    assert process.returncode == 130, errors
    assert seconds < 10.0
    assert errors == "error: stopped by SIGINT\nhint: run it again: what was complete is kept\n"
    assert events(rest)[-1]["error"]["code"] == "interrupted"
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
