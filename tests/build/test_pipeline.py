"""The pipeline end to end on a tiny model: what a user sees when things go right, and when they do not."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from build_runs import STAGES, Run, flip
from enginewright import build_run, pipeline
from enginewright.load_recipe import load_recipe
from enginewright.output import OutputFolder
from enginewright.pipeline import build, plan_build
from enginewright.progress import PlainReporter
from enginewright.source import Source
from enginewright_errors import DoesNotFit, GateFailed, RecipeError, StageFailed


@pytest.fixture(scope="module")
def checkpoint(tiny: Callable[..., Path]) -> Path:
    return tiny(arch="qwen2", hidden=64, intermediate=128, layers=1, heads=2, kv_heads=1)


@pytest.fixture(scope="module")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished build; tests that change it copy it."""
    run = Run(tmp_path_factory.mktemp("built"))
    result = run(checkpoint)
    assert list(result.reused.values()) == [False] * 5
    return run


@pytest.fixture
def run(built: Run, tmp_path: Path) -> Iterator[Run]:
    """A copy of the finished build, linked as the original is."""
    root = tmp_path / "copy"
    links: dict[int, str] = {}

    def copy(source: str, target: str) -> None:
        inode = Path(source).stat().st_ino
        if inode in links:
            os.link(links[inode], target)
        else:
            shutil.copy2(source, target)
            links[inode] = target

    shutil.copytree(built.root, root, copy_function=copy)
    yield Run(root)


def test_the_output_is_a_repository_with_manifest_and_report(built: Run) -> None:
    names = {path.name for path in built.out.iterdir()}
    assert names >= {"manifest.json", "report.json", "llm", "ensemble", "tensorrt_llm_bls", "vllm_model"}
    manifest = json.loads(built.manifest)
    assert list(manifest["chain"]) == ["compile", "package", "quantize", "report", "source", "verify"]
    report = json.loads((built.out / "report.json").read_bytes())
    for stage in STAGES:
        assert report["stages"][stage]["peak_memory_bytes"] > 0
        assert report["stages"][stage]["planned"]["name"] == stage
    assert [line.split()[0] for line in built.text.splitlines() if "built" in line] == STAGES


def test_a_second_build_does_nothing(run: Run, checkpoint: Path) -> None:
    before = run.out.stat(), run.manifest, (run.out / "report.json").read_bytes()
    result = run(checkpoint)
    assert list(result.reused.values()) == [True] * 5
    assert not result.changed
    assert (run.out.stat(), run.manifest, (run.out / "report.json").read_bytes()) == before


def test_the_same_build_elsewhere_gives_the_same_manifest(
    built: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "somewhere" / checkpoint.name
    shutil.copytree(checkpoint, other)
    for path in other.iterdir():
        os.utime(path, (1, 1))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    run = Run(tmp_path / "root")
    run.root.mkdir()
    run(other)
    assert run.manifest == built.manifest


def test_neither_paths_nor_secrets_are_recorded(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    canary = "hf_CanaryCanaryCanary"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, canary)
    run = Run(tmp_path)
    run(checkpoint)
    printed = "".join(capfd.readouterr()) + run.text
    assert canary not in printed
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert canary.encode() not in content, path
            if path.name in ("manifest.json", "entry.json"):
                assert str(tmp_path).encode() not in content, path
                assert str(checkpoint.parent).encode() not in content, path


def test_stages_print_nothing_of_their_own(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path)
    run(checkpoint)
    assert capfd.readouterr() == ("", "")


def test_a_flipped_byte_in_a_source_shard_is_another_source(
    run: Run, built: Run, checkpoint: Path, tmp_path: Path
) -> None:
    source = tmp_path / checkpoint.name
    shutil.copytree(checkpoint, source)
    assert list(run(source).reused.values()) == [True] * 5
    flip(source / "model.safetensors")
    result = run(source)
    assert not result.reused["quantize"]
    assert not result.reused["compile"]
    assert result.changed
    old, new = json.loads(built.manifest), json.loads(run.manifest)
    assert old["chain"]["source"]["digest"] != new["chain"]["source"]["digest"]


@pytest.mark.parametrize("stage", ["quantize", "compile", "package"])
def test_a_flipped_byte_in_the_cache_is_noticed_and_repaired(
    run: Run, built: Run, checkpoint: Path, stage: str
) -> None:
    (entry,) = (run.root / "cache" / stage).iterdir()
    largest = max((path for path in entry.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    flip(largest)
    result = run(checkpoint)
    assert not result.reused[stage]
    assert any(f"the cached {stage}" in line and largest.name in line for line in run.warnings)
    assert run.manifest == built.manifest
    assert list(run(checkpoint).reused.values()) == [True] * 5
    assert run.warnings == []


def test_a_changed_file_in_the_output_is_put_right(run: Run, built: Run, checkpoint: Path) -> None:
    victim = run.out / "llm" / "config.pbtxt"
    victim.unlink()
    victim.write_text("edited")
    assert run(checkpoint).changed
    assert "edited" not in victim.read_text()
    (run.out / "llm" / "extra.py").write_text("")
    assert run(checkpoint).changed
    assert not (run.out / "llm" / "extra.py").exists()


def test_a_changed_field_repeats_only_what_depends_on_it(run: Run, checkpoint: Path) -> None:
    assert list(run(checkpoint, "serving.max_queue=7").reused.values()) == [True, True, True, True, False]
    assert list(run(checkpoint, "verify.samples=2").reused.values()) == [True, True, False, True, False]
    assert list(run(checkpoint, "engine.max_batch_size=2").reused.values()) == [
        True,
        False,
        False,
        False,
        False,
    ]


def test_an_engine_that_is_not_good_enough_is_kept_and_not_published(
    checkpoint: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path)
    error = run.fails(GateFailed, checkpoint, "verify.max_kl=1.0e-12")
    assert error.exit_code == 5
    assert str(tmp_path / "out.rejected") in error.hint
    assert (tmp_path / "out.rejected" / "engine" / "model.onnx").exists()
    reason = json.loads((tmp_path / "out.rejected" / "report.json").read_bytes())["rejected"]
    assert reason["message"] == error.message
    assert not run.out.exists()
    result = run(checkpoint)
    assert list(result.reused.values()) == [True, True, False, False, False]


def test_a_group_that_does_not_divide_is_named_before_anything_is_built(
    checkpoint: Path, tmp_path: Path
) -> None:
    error = Run(tmp_path).fails(RecipeError, checkpoint, "quantization.format=int4_awq")
    assert error.message == "quantization.group_size: 128 does not divide this model's layer width 64"
    assert "set it to 64" in error.hint
    assert not (tmp_path / "cache" / "quantize").exists()


def test_too_little_memory_is_said_before_anything_is_built(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginewright.machine.available_memory", lambda: 2**20)
    run = Run(tmp_path)
    error = run.fails(DoesNotFit, checkpoint)
    assert error.exit_code == 3
    assert "1 MiB are available" in error.message
    assert not (tmp_path / "cache" / "quantize").exists()
    run(checkpoint, force=True)
    # What is in the cache needs no room; serving still does.
    assert "serve needs" in run.fails(DoesNotFit, checkpoint).message


def test_a_hub_checkpoint_that_does_not_fit_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 51200,
        "num_hidden_layers": 64, "num_attention_heads": 40, "num_key_value_heads": 8,
        "intermediate_size": 276480, "vocab_size": 152064, "max_position_embeddings": 40960,
    }  # fmt: skip

    def resolve(recipe: object, cache: Path, *, before_weights: Callable[..., None], **_: object) -> Source:
        (tmp_path / "hub").mkdir(exist_ok=True)
        (tmp_path / "hub" / "config.json").write_text(json.dumps(config))
        before_weights(tmp_path / "hub")
        raise AssertionError("the download began")

    monkeypatch.setattr(pipeline, "resolve_source", resolve)
    monkeypatch.setattr(build_run, "resolve_source", resolve)
    wanted = load_recipe("org/huge")
    made = plan_build(wanted, tmp_path / "out", cache_folder=tmp_path / "cache", read_bandwidth=4e10)
    assert made.shortages
    stream = io.StringIO()
    with pytest.raises(DoesNotFit):
        build(
            wanted,
            tmp_path / "out",
            reporter=PlainReporter(stream),
            cache_folder=tmp_path / "cache",
            read_bandwidth=4e10,
        )
    assert "does not fit" in stream.getvalue()


def test_two_builds_into_one_output_at_once(checkpoint: Path, tmp_path: Path) -> None:
    run = Run(tmp_path)
    with OutputFolder(run.out):
        with pytest.raises(StageFailed, match=f"is being written by process {os.getpid()}") as caught:
            run(checkpoint)
        assert caught.value.exit_code == 4
        assert "--output" in caught.value.hint
    run(checkpoint)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]
