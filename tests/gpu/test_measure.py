"""`make gpu` on the CPU with a tiny model: the same stages and files, and a clean end without a GPU."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from enginewright_errors import StageFailed
from enginewright_model import read_model_spec
from enginewright_trtllm.gpus import find_gpu
from gpu import model_run, stage_runs
from gpu.measure import main
from gpu.random_checkpoint import SHAPES
from gpu.room import Room, layer_bounds
from trtllm_targets import QWQ

STAGES = ["quantize", "checkpoint, tp 1", "checkpoint, tp 2"]
GIB = 2**30


def run(folder: Path, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    """(exit code, what was printed, the results) of a tiny model on the CPU."""
    work = folder / "work"
    work.mkdir()
    places = ("--work", str(work), "--results", str(folder / "results"))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main(["--device", "cpu", "--shape", "small", "--layers", "1", *places, *arguments])
    assert list(work.iterdir()) == []
    [file] = (folder / "results").iterdir()
    assert file.name.endswith("-cpu.json")
    return code, printed.getvalue(), json.loads(file.read_text())


def test_each_stage_of_each_format_is_measured_beside_its_plan(tmp_path: Path) -> None:
    code, printed, results = run(tmp_path)
    assert code == 0
    stages = results["stages"]
    assert [(one["format"], one["stage"]) for one in stages] == [
        (model_format, stage) for model_format in ("fp8", "int4_awq") for stage in STAGES
    ]
    for one in stages:
        measured, planned = one["measured"], one["planned"]
        assert measured["seconds"] > 0
        assert measured["host_bytes"] > 100e6
        assert measured["device_bytes"] is None
        assert measured["disk_bytes"] == pytest.approx(planned["disk_bytes"], rel=0.01)
        assert f"| {one['format']} | {one['stage']} | " in printed
    errors = [one["worst_error"] for one in stages if one["stage"] == "quantize"]
    assert 0 < errors[0] < 0.05 < errors[1] < 0.2
    assert results["model"]["layers"] == 1
    assert results["machine"]["torch"] == torch.__version__


def test_a_run_that_fails_leaves_what_was_measured_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = stage_runs.write_checkpoint

    def fail_at_two(*folders: Path, tp: int, **options: Any) -> Any:
        if tp == 2:
            raise StageFailed("the disk went away", code="disk", hint="bring it back")
        return write(*folders, tp=tp, **options)

    monkeypatch.setattr(stage_runs, "write_checkpoint", fail_at_two)
    code, printed, results = run(tmp_path, "--formats", "fp8")
    assert code == 4
    assert "error: the disk went away\nhint: bring it back" in printed
    assert [one["stage"] for one in results["stages"]] == STAGES[:2]


def test_without_a_gpu_it_says_why_and_ends_cleanly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 0
    assert f"nothing measured: no CUDA device: torch {torch.__version__}" in capsys.readouterr().out


def test_a_missing_package_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "modelopt.torch.export", None)
    code = main(["--device", "cpu", "--work", str(tmp_path), "--results", str(tmp_path / "results")])
    assert code == 2
    assert "has no package modelopt" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_where_not_one_layer_fits_it_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model_run, "find_room", lambda work, device: Room(GIB, 0, None))
    code = main(["--device", "cpu", "--work", str(tmp_path), "--results", str(tmp_path / "results")])
    assert code == 3
    assert "not one layer fits: host 0, disk 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_layers_are_bounded_by_what_is_scarcest() -> None:
    def bounds(**room: int) -> dict[str, int]:
        free = Room(**{"host": 128 * GIB, "disk": 256 * GIB, "device": 79 * GIB, **room})
        return layer_bounds(free, ("fp8", "int4_awq"), QWQ, find_gpu("H100-80"), 24 * 512)

    # All of QwQ-32B: 65.5 GB on the card; with the copies that are measured, 135 GB of disk.
    assert bounds() == {"host": 64, "disk": 64, "device": 64}
    # By hand: 9.34 + 1.951 GB a layer in 0.9 of the disk; 5.43 + 1.073 GB a layer in 0.9 of the host.
    assert bounds(disk=64 * GIB)["disk"] == 26
    assert bounds(host=32 * GIB)["host"] == 23
    assert bounds(device=23 * GIB)["device"] == 18
    # Six layers, calibrated in BF16, fit where five, widened to float32, do not.
    assert bounds(device=10 * GIB)["device"] == 6
    assert bounds(device=9 * GIB)["device"] == 1
    assert bounds(device=8 * GIB)["device"] == 0


def test_the_measured_shape_is_qwq_32b_s() -> None:
    config = SHAPES["qwq-32b"].with_layers(QWQ.num_layers)
    assert read_model_spec(config) == QWQ
