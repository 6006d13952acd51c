"""Kill -9 at any change of the file system, again and again: the same manifest, and nothing made twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginewright.verify_repository import verify_repository
from gpu_host import H100, GpuHost

STAGES = ("quantize", "compile", "verify", "report", "package")
TRTLLM = ("quantize", "report", "checkpoint", "verify", "compile-native", "compile-long", "package")
TESTS = Path(__file__).parents[1]

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Build in a forked child of one warm process; see pipeline_trials.py."""
    host = GpuHost(tmp_path_factory.mktemp("host") / "host")
    host.gpus(H100)
    host.builder()
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": host.environment()["PATH"],
        "PYTHONPATH": f"{TESTS}:{host.environment()['PYTHONPATH']}",
    }
    with subprocess.Popen(
        [sys.executable, str(TESTS / "pipeline_trials.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout
        assert "ready" in json.loads(stdout.readline())

        def ask_one(
            checkpoint: Path, root: Path, quantization: str, target: str = "onnx", **job: Any
        ) -> dict[str, Any]:
            sets = [f"quantization.format={quantization}", "name=tiny", *SETTINGS[target]]
            where = {"recipe": str(checkpoint), "output": str(root / "out"), "cache": str(root / "cache")}
            stdin.write(json.dumps({**where, "target": target, "sets": sets, **job}) + "\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(stdout.readline())
            return answer

        yield ask_one
        stdin.close()


COMMON = (
    "quantization.group_size=64",
    "quantization.calibration={samples: 2, length: 64}",
    "gate={max_kl: 10.0, min_top1: 0.0, max_perplexity_ratio: 100.0}",
)
SETTINGS = {
    "onnx": (
        *COMMON,
        "verify={samples: 1, length: 16, max_kl: 10.0, min_top1: 0.0}",
        "report={samples: 1, length: 16, prompts: 1, answer_tokens: 4, items: 1}",
    ),
    "trtllm": (
        *COMMON,
        "report={samples: 1, length: 16, prompts: 0, items: 0}",
        "trtllm.max_seq_len=256",
        "trtllm.max_num_tokens=256",
        "context={native: 256, long: {max_seq_len: 1024, factor: 4.0}}",
    ),
}


@pytest.fixture(scope="module")
def checkpoint(tiny: Callable[..., Path]) -> Path:
    return tiny(arch="qwen2", hidden=64, intermediate=128, layers=1, heads=2, kv_heads=1)


def complete(root: Path) -> set[str]:
    """The stages that the cache has a result of."""
    return {stage for stage in (*STAGES, *TRTLLM) if any((root / "cache" / stage).glob("*/entry.json"))}


def check_clean(root: Path) -> None:
    assert list((root / "cache" / "tmp").iterdir()) == []
    assert list((root / "cache" / "locks").iterdir()) == []
    assert sorted(path.name for path in root.iterdir()) == ["cache", "out"]


def manifest(root: Path) -> bytes:
    return (root / "out" / "manifest.json").read_bytes()


@pytest.fixture(scope="module")
def whole(ask: Ask, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """The manifest of a build that nobody disturbed."""
    made: dict[str, bytes] = {}

    def make(quantization: str) -> bytes:
        if quantization not in made:
            root = tmp_path_factory.mktemp("whole")
            answer = ask(checkpoint, root, quantization)
            assert answer["state"] == "done", answer
            assert answer["built"] == list(STAGES)
            made[quantization] = manifest(root)
        return made[quantization]

    return make


@pytest.mark.parametrize(("quantization", "stride"), [("none", 41), ("int4_awq", 211)])
def test_killed_again_and_again_it_ends_with_the_same_manifest(
    ask: Ask, checkpoint: Path, tmp_path: Path, whole: Callable[[str], bytes], quantization: str, stride: int
) -> None:
    root = tmp_path / "killed"
    nth, kills = 2, 0
    while True:
        before = complete(root)
        answer = ask(checkpoint, root, quantization, nth=nth)
        assert not before & set(answer["built"]), "a complete stage was repeated"
        assert answer["warnings"] == [], "what a kill left was taken for a result"
        if answer["state"] == "done":
            break
        assert answer["state"] == "killed"
        kills += 1
        # From the first change of the next stage on, once this one is through.
        nth = 2 + kills % stride if complete(root) != before else nth + stride
    assert kills > 8
    assert manifest(root) == whole(quantization)
    check_clean(root)


def test_killed_at_any_moment_it_ends_with_the_same_manifest(
    ask: Ask, checkpoint: Path, tmp_path: Path, whole: Callable[[str], bytes]
) -> None:
    """By the clock: libraries in Rust and C++ write where no wrapper reaches."""
    root, after = tmp_path / "killed", 0.2
    while (answer := ask(checkpoint, root, "int4_awq", after=after))["state"] == "killed":
        after *= 1.7
        assert answer["warnings"] == []
    assert manifest(root) == whole("int4_awq")
    check_clean(root)


def test_a_tensorrt_llm_build_that_is_killed_goes_on_and_makes_nothing_twice(
    ask: Ask, checkpoint: Path, tmp_path: Path
) -> None:
    """Engines differ from build to build, so what must be equal is everything but their bytes."""
    root, nth, kills = tmp_path / "killed", 2, 0
    while True:
        before = complete(root)
        answer = ask(checkpoint, root, "none", "trtllm", nth=nth)
        assert not before & set(answer["built"]), "a complete stage was repeated"
        assert answer["warnings"] == [], "what a kill left was taken for a result"
        if answer["state"] == "done":
            break
        assert answer["state"] == "killed"
        kills += 1
        nth = 2 + kills % 17 if complete(root) != before else nth + 17
    assert kills > 8
    verify_repository(root / "out")
    check_clean(root)


def test_a_second_build_does_nothing(ask: Ask, checkpoint: Path, tmp_path: Path) -> None:
    ask(checkpoint, tmp_path, "none")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = ask(checkpoint, tmp_path, "none")
    assert (again["built"], again["reused"], again["changed"]) == ([], list(STAGES), False)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.parent.name != "cache"}
    assert {path: before[path] for path in after} == after
    check_clean(tmp_path)
