"""Where nothing builds engines, a build ends in a folder for the GPU's machine, and goes on there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from build_runs import flip
from enginewright.manifest import engine_records
from enginewright.verify_repository import verify_repository
from enginewright_errors import (
    GateFailed,
    RecipeError,
    UsageError,
)
from enginewright_trtllm.check_repository import check_repository
from gpu_host import H100
from trtllm_builds import LONG, Builds, names_of


def test_without_a_builder_the_checkpoints_are_handed_off(build: Builds, checkpoint: Path) -> None:
    result = build(checkpoint, *LONG)
    assert names_of(build.out) == {"checkpoint", "build-engines.sh", "manifest.json", "report.json"}
    assert names_of(build.out / "checkpoint") == {"native", "long", "model"}
    why, here, there = result.next_steps.splitlines()
    assert "no trtllm-build is on PATH" in why
    assert "`build-engine out --container`" in here
    assert "26.07-trtllm-python-py3" in here
    assert "sh out/build-engines.sh" in there
    assert verify_repository(build.out).manifest_sha256 == result.manifest_sha256
    again = build(checkpoint, *LONG)
    assert (set(again.reused.values()), again.changed) == ({True}, False)
    rank = build.out / "checkpoint" / "native" / "rank0.safetensors"
    flip(rank)
    with pytest.raises(GateFailed, match=r"rank0\.safetensors differs"):
        verify_repository(build.out)


def test_it_goes_on_from_a_copy_on_the_gpus_machine(build: Builds, checkpoint: Path, tmp_path: Path) -> None:
    build(checkpoint, *LONG)
    there = Builds(tmp_path / "there", build.host)
    folder = there.root / "carried"
    shutil.copytree(build.out, folder)
    build.host.gpus(H100)
    build.host.docker()
    result = there(folder, container=True)
    assert list(result.reused) == ["checkpoint", "verify", "compile-native", "compile-long", "package"]
    assert check_repository(there.out) == ()
    assert verify_repository(there.out).manifest_sha256 == result.manifest_sha256
    before, after = build.manifest, there.manifest
    assert after["recipe"] == before["recipe"]
    for link in ("source", "calibration", "quantize", "checkpoint", "verify"):
        assert after["chain"][link] == before["chain"][link]
    run = next(call for call in build.host.docker_calls() if call[0] == "run")
    assert "--read-only" in run
    assert any(word.endswith("dst=/checkpoint,readonly") for word in run)
    assert run[run.index("--max_seq_len") + 1] == "256"


def test_a_carried_folder_that_was_damaged_or_asked_for_more_is_refused(
    build: Builds, checkpoint: Path, tmp_path: Path
) -> None:
    build(checkpoint)
    there = Builds(tmp_path / "there", build.host)
    folder = there.root / "carried"
    shutil.copytree(build.out, folder)
    assert "no trtllm-build" in there.fails(UsageError, folder).message
    build.host.gpus(H100)
    build.host.builder()
    error = there.fails(RecipeError, folder, "trtllm.tp=2")
    assert error.message == f"trtllm.tp is 2, and {folder} was made with 1"
    assert there(folder, "trtllm.max_batch_size=2", output=tmp_path / "smaller").changed
    flip(folder / "checkpoint" / "native" / "rank0.safetensors")
    shutil.rmtree(there.cache)
    assert "rank0.safetensors is not what the manifest says" in there.fails(GateFailed, folder).message


def test_what_the_script_built_is_taken(build: Builds, checkpoint: Path) -> None:
    build(checkpoint, *LONG)
    build.host.gpus(H100)
    build.host.docker()
    script = subprocess.run(
        ["sh", build.out / "build-engines.sh"], capture_output=True, text=True, check=False
    )
    assert script.returncode == 0, script.stderr
    build.host.gpus()  # home again
    result = build(checkpoint, *LONG)
    assert list(result.reused)[-3:] == ["compile-native", "compile-long", "package"]
    assert result.changed
    record = engine_records(build.manifest)["long"]
    assert (record["tensorrt_llm"], record["tensorrt"], record["sm"]) == ("1.2.1", "10.14.1.48", 90)
    assert check_repository(build.out) == ()
    assert verify_repository(build.out).manifest_sha256 == result.manifest_sha256


def test_a_half_done_or_outdated_engine_of_the_script_is_kept_and_not_used(
    build: Builds, checkpoint: Path
) -> None:
    build(checkpoint)
    engine = build.out / "engine-native"
    engine.mkdir()
    (engine / "rank0.engine").write_bytes(b"half")
    result = build(checkpoint)
    assert result.next_steps
    assert f"{engine} is not used" in build.text
    assert (engine / "rank0.engine").exists()
