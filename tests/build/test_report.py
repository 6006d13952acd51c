"""The report stage on real checkpoints and engines: its figures, recomputed; what it catches."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from build_runs import Run
from enginewright.checkpoint import open_checkpoint
from enginewright.quality.figures import QualityReport
from enginewright.quality.gate import GateBounds, check_gate
from enginewright.quality.texts import ReportTexts, load_report_texts
from enginewright.recipe import CalibrationRecipe, QuantizationRecipe, ReportRecipe
from enginewright.reference_logits import ReferenceSequence, reference_logits
from enginewright.stages.quantize import quantize
from enginewright.stages.report import measure_quality
from enginewright.torch_session import torch_session
from enginewright_errors import GateFailed
from enginewright_onnx import EngineOptions, write_engine
from enginewright_onnx.runtime import ModelSession, read_engine_config, score
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

RECIPE = ReportRecipe(samples=3, length=48, prompts=3, answer_tokens=24, items=5, problems=2)
OPTIONS = EngineOptions(max_seq_len=256, max_batch_size=2, kv_budget_bytes=1 << 26)
EXACT = replace(OPTIONS, accuracy_level=0, lm_head="fp32", fp8_compute="fp32")


@pytest.fixture(scope="module")
def source(tiny: Callable[..., Path]) -> Path:
    return tiny(arch="llama", tied=True)


@pytest.fixture(scope="module")
def quantized(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(quantization: str) -> Path:
        if quantization not in made:
            made[quantization] = tmp_path_factory.mktemp(quantization)
            calibration = CalibrationRecipe(samples=2, length=64)
            recipe = QuantizationRecipe(format=quantization, calibration=calibration)  # type: ignore[arg-type]
            quantize(open_checkpoint(source), made[quantization], recipe, threads=1)
        return made[quantization]

    return make


@pytest.fixture
def measure(source: Path, tmp_path: Path) -> Callable[..., QualityReport]:
    """`measure(checkpoint, options)`: the report of an engine written from `checkpoint`."""

    def make(checkpoint: Path, options: EngineOptions = OPTIONS, **arguments: Any) -> QualityReport:
        engine, scratch = tmp_path / "engine", tmp_path / "scratch"
        shutil.rmtree(engine, ignore_errors=True)
        write_engine(checkpoint, engine, options)
        scratch.mkdir(exist_ok=True)
        found = measure_quality(
            source, checkpoint, engine, texts(source), 24, scratch, threads=1, **arguments
        )
        assert list(scratch.iterdir()) == []
        return found

    return make


def texts(source: Path) -> ReportTexts:
    return load_report_texts(RECIPE, source, 256)


def spoil(checkpoint: Path, copy: Path, name: str) -> Path:
    """A copy with the scales `name` doubled."""
    shutil.copytree(checkpoint, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors[name].mul_(2)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_the_figures_are_those_of_a_few_lines_of_numpy(
    source: Path, quantized: Callable[[str], Path], measure: Callable[..., QualityReport], tmp_path: Path
) -> None:
    report = measure(quantized("int4_awq"))
    ids = texts(source).held_out
    with torch_session(1):
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
        original = [model(torch.from_numpy(row.astype(np.int64))[None]).logits[0].numpy() for row in ids]
        checkpoint = list(reference_logits(quantized("int4_awq"), [ReferenceSequence(row) for row in ids]))
    config = read_engine_config(tmp_path / "engine")
    session = ModelSession.open(tmp_path / "engine", config, threads=1)
    engine = [score(session, row[:-1]) for row in ids]

    def log_softmax(x: np.ndarray) -> np.ndarray:
        return (
            x - x.max(-1, keepdims=True) - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True))
        )

    def columns(found: list[np.ndarray]) -> np.ndarray:
        rows = []
        for want, got, row in zip(original, found, ids, strict=True):
            p, q = (log_softmax(x[: len(row) - 1].astype(np.float64)) for x in (want, got))
            at = np.arange(len(row) - 1), row[1:]
            five = [
                len(set(np.argsort(-a)[:5]) & set(np.argsort(-b)[:5])) / 5 for a, b in zip(p, q, strict=True)
            ]
            kl = (np.exp(p) * (p - q)).sum(-1)
            rows.append(np.stack([-p[at], -q[at], kl, p.argmax(-1) == q.argmax(-1), five], axis=1))
        return np.stack(rows)

    assert report.held_out is not None and report.held_out.positions == 3 * 47
    draws = np.random.default_rng(0).integers(6, size=(1000, 6))  # blocks of 32 and 15 positions
    for figures, found in ((report.held_out.checkpoint, checkpoint), (report.held_out.engine, engine)):
        assert figures is not None
        table = columns(found)
        blocks = [part for row in table for part in (row[:32], row[32:])]
        for figure, statistic in (
            (figures.perplexity, lambda rows: np.exp(rows[:, 1].mean())),
            (figures.perplexity_ratio, lambda rows: np.exp((rows[:, 1] - rows[:, 0]).mean())),
            (figures.mean_kl, lambda rows: rows[:, 2].mean()),
            (figures.p99_kl, lambda rows: np.quantile(rows[:, 2], 0.99)),
            (figures.top1, lambda rows: rows[:, 3].mean()),
            (figures.top5, lambda rows: rows[:, 4].mean()),
        ):
            resampled = [statistic(np.concatenate([blocks[i] for i in draw])) for draw in draws]
            low, high = np.percentile(resampled, [2.5, 97.5])
            wanted = statistic(np.concatenate(blocks)), low, high
            assert (figure.value, figure.low, figure.high) == pytest.approx(wanted, rel=1e-6, abs=1e-6)
        assert figures.kl_quantiles[0] < figures.mean_kl.value < figures.kl_quantiles[-1]
    assert report.held_out.perplexity.value == pytest.approx(np.exp(table[..., 0].mean()), rel=1e-6)


def test_an_exact_engine_of_the_original_loses_nothing(
    source: Path, measure: Callable[..., QualityReport]
) -> None:
    report = measure(source, EXACT)
    for group in (report.held_out, report.continuations):
        assert group is not None and group.engine is not None
        assert group.engine.mean_kl.value < 1e-9 and group.engine.top1.value == 1.0
        assert group.engine.perplexity_ratio.value == pytest.approx(1.0, abs=1e-6)
    for answers in (report.greedy, report.sampled):
        assert answers is not None
        for model in (answers.checkpoint, answers.engine):
            assert model is not None and model.identical is not None
            assert model.identical.value == 1.0, "the same weights and seeds give the same answers"
            assert answers.original_loop_rate == model.loop_rate
    assert [task.task for task in report.tasks] == ["built-in choices", "built-in problems"]
    for task in report.tasks:
        assert task.original == task.checkpoint == task.engine is not None
    assert (report.author, report.note) == ("original", "")


def test_the_same_build_is_measured_the_same(
    quantized: Callable[[str], Path], measure: Callable[..., QualityReport]
) -> None:
    assert measure(quantized("int4_awq")) == measure(quantized("int4_awq"))


@pytest.mark.parametrize("quantization", ["fp8", "int8_sq", "int4_awq"])
def test_a_scale_that_is_doubled_in_one_layer_is_caught_and_found(
    quantized: Callable[[str], Path],
    measure: Callable[..., QualityReport],
    tmp_path: Path,
    quantization: str,
) -> None:
    """Doubled in the checkpoint: the engine agrees with it, and `verify` has nothing to say."""
    good = measure(quantized(quantization), sensitivity=True)
    assert good.judged is not None
    # Random weights have no order that four bits could keep, so the bound is what this model needs.
    bounds = GateBounds(1.2 * good.judged.mean_kl.value, 0.0, 100.0)
    check_gate(good, bounds)
    wrong = spoil(quantized(quantization), tmp_path / "wrong", "model.layers.1.mlp.down_proj.weight_scale")
    report = measure(wrong, sensitivity=True)
    with pytest.raises(GateFailed, match="mean KL"):
        check_gate(report, bounds)
    assert report.layers[0] == good.layers[0]
    assert report.layers[1].mean_kl > 1.5 * good.layers[1].mean_kl


def test_one_layer_by_itself_costs_less_than_both(
    quantized: Callable[[str], Path], measure: Callable[..., QualityReport]
) -> None:
    report = measure(quantized("int4_awq"), sensitivity=True)
    assert report.held_out is not None and report.held_out.checkpoint is not None
    whole = report.held_out.checkpoint.mean_kl.value
    assert all(0 < cost.mean_kl < whole for cost in report.layers)


def test_an_original_that_does_not_fit_is_measured_without_its_answers(
    quantized: Callable[[str], Path],
    measure: Callable[..., QualityReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = measure(quantized("fp8"))
    monkeypatch.setattr("enginewright.quality.exact_engine.available_memory", lambda: 2**20)
    report = measure(quantized("fp8"))
    assert "the original's own answers need" in report.note and "1 MiB are available" in report.note
    assert report.author == "engine" and report.continuations is not None
    assert report.greedy is not None and report.greedy.engine is not None
    assert report.greedy.checkpoint is None and report.greedy.engine.first_divergence is None
    assert report.held_out == whole.held_out


def test_a_build_that_loses_too_much_is_rejected_with_all_its_figures(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = tiny(arch="qwen2", hidden=64, intermediate=128, layers=1, heads=2, kv_heads=1)
    run = Run(tmp_path)
    error = run.fails(GateFailed, checkpoint, "gate={max_kl: 1.0e-12}")
    assert error.exit_code == 5 and error.code == "quality-gate"
    assert str(tmp_path / "out.rejected") in error.hint
    kept = json.loads((tmp_path / "out.rejected" / "report.json").read_bytes())
    assert kept["rejected"]["message"] == error.message
    assert kept["gate"]["max_kl"] == 1e-12
    assert kept["stages"]["report"]["measured"]["held_out"]["engine"]["mean_kl"]["value"] > 1e-12
    result = run(checkpoint, "gate={max_kl: 10.0, min_top1: 0.0}")
    reused = [stage for stage, was in result.reused.items() if was]
    assert reused == ["quantize", "compile", "verify", "report"], "another bound costs no measurement"
