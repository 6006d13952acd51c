"""Real engines of tiny models: what is right passes, what is not is caught and named by its numbers."""

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
from enginewright.agreement import WORST, Agreement
from enginewright.checkpoint import open_checkpoint
from enginewright.recipe import CalibrationRecipe, QuantizationRecipe, VerifyRecipe
from enginewright.reference_logits import ReferenceSequence, reference_logits
from enginewright.stages.quantize import quantize
from enginewright.stages.verify import VerificationFailed, VerifyReport, verify
from enginewright.torch_session import torch_session
from enginewright_errors import GateFailed, RecipeError
from enginewright_onnx import EngineOptions, LongContext, write_engine
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

Tiny = Callable[..., Path]
EXACT = EngineOptions(
    max_seq_len=256,
    max_batch_size=2,
    kv_budget_bytes=1 << 26,
    accuracy_level=0,
    lm_head="fp32",
    fp8_compute="fp32",
)
FAST = replace(EXACT, accuracy_level=4, lm_head="int8", fp8_compute="int8")
RECIPE = VerifyRecipe(samples=2, length=64)


@pytest.fixture(scope="module")
def built(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """`built(format, options, **model)`: (checkpoint, engine), each made once."""
    made: dict[str, Path] = {}

    def make(quantization: str, options: EngineOptions = EXACT, **model: Any) -> tuple[Path, Path]:
        checkpoint_key = repr((quantization, sorted(model.items())))
        if checkpoint_key not in made:
            made[checkpoint_key] = tmp_path_factory.mktemp("checkpoint")
            recipe = QuantizationRecipe(
                format=quantization,  # type: ignore[arg-type]
                calibration=CalibrationRecipe(samples=2, length=64),
            )
            quantize(open_checkpoint(tiny(**model)), made[checkpoint_key], recipe, threads=1)
        engine_key = checkpoint_key + repr(options)
        if engine_key not in made:
            made[engine_key] = tmp_path_factory.mktemp("engine")
            write_engine(made[checkpoint_key], made[engine_key], options)
        return made[checkpoint_key], made[engine_key]

    return make


def check(checkpoint: Path, engine: Path, **changes: Any) -> VerifyReport:
    return verify(checkpoint, engine, RECIPE.model_copy(update=changes), threads=1)


def change_weights(folder: Path, copy: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize("quantization", ["int4_awq", "fp8", "int8_sq", "none"])
@pytest.mark.parametrize("model", [{"arch": "qwen2"}, {"arch": "llama", "tied": True}])
def test_an_exact_engine_computes_its_checkpoint(
    built: Callable[..., tuple[Path, Path]], quantization: str, model: dict[str, Any]
) -> None:
    report = check(*built(quantization, **model))
    assert report.positions == 128 and report.greedy_tokens > 8
    assert report.logit_error < 1e-5 and report.decode_error < 1e-5 and report.mean_kl < 1e-9
    assert report.top1 == report.greedy == 1.0
    assert report.bounds.max_logit_error == 1e-3 and report.bounds.max_decode_error == 1e-4


def test_the_reference_is_transformers(tiny: Tiny) -> None:
    """The layer-by-layer evaluation against the model run as a whole, both ropes and the bias included."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    for folder in (tiny(), tiny(arch="llama", tied=True), tiny(rope_scaling=yarn)):
        ids = np.arange(100, dtype=np.int32) * 7 % 300
        with torch_session(1):
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            whole = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()
            sequences = [ReferenceSequence(ids), ReferenceSequence(ids[:9]), ReferenceSequence(ids[:12])]
            first, second, third = reference_logits(folder, sequences)
        assert np.abs(first - whole).max() < 2e-5 * np.abs(whole).max()
        assert np.abs(second - whole[:9]).max() < 2e-5 * np.abs(whole).max()
        assert np.abs(third - whole[:12]).max() < 2e-5 * np.abs(whole).max()


def test_the_report_is_plain_json_and_the_same_each_time(built: Callable[..., tuple[Path, Path]]) -> None:
    pair = built("int4_awq", FAST)
    first = check(*pair, max_kl=1.0, min_top1=0.5)
    assert json.loads(json.dumps(first.as_json())) == first.as_json()
    assert check(*pair, max_kl=1.0, min_top1=0.5) == first


def test_a_rounded_engine_is_held_to_kl_and_top1(built: Callable[..., tuple[Path, Path]]) -> None:
    report = check(*built("int4_awq", FAST), min_top1=0.8)
    assert report.bounds.max_logit_error is None
    assert 1e-5 < report.mean_kl < 0.02 and 0.8 < report.top1 < 1.0
    with pytest.raises(VerificationFailed) as caught:
        check(*built("int4_awq", FAST), max_kl=1e-6, max_logit_error=1e-5)
    message = caught.value.message
    assert f"mean KL is {report.mean_kl:.4g}, it has to be at most 1e-06" in message
    assert f"largest logit error is {report.logit_error:.4g}, it has to be at most 1e-05" in message
    assert isinstance(caught.value, GateFailed) and caught.value.exit_code == 5
    assert caught.value.report.mean_kl == report.mean_kl and "accuracy_level" in caught.value.hint


@pytest.mark.parametrize("options", [EXACT, FAST])
@pytest.mark.parametrize("quantization", ["int4_awq", "fp8"])
def test_a_scale_that_is_doubled_in_one_layer_is_caught(
    built: Callable[..., tuple[Path, Path]], tmp_path: Path, quantization: str, options: EngineOptions
) -> None:
    checkpoint, _ = built(quantization, options)
    name = "model.layers.1.mlp.down_proj.weight_scale"
    wrong = change_weights(checkpoint, tmp_path / "wrong", lambda tensors: tensors[name].mul_(2))
    write_engine(wrong, tmp_path / "engine", options)
    with pytest.raises(VerificationFailed) as caught:
        check(checkpoint, tmp_path / "engine")
    assert "mean KL" in caught.value.message or "top-1" in caught.value.message


def test_a_wrong_rope_theta_is_caught(built: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    checkpoint, _ = built("none")
    wrong = Path(shutil.copytree(checkpoint, tmp_path / "wrong"))
    config = json.loads((wrong / "config.json").read_text())
    config["rope_theta"] = config["rope_parameters"]["rope_theta"] = 10_000.0
    (wrong / "config.json").write_text(json.dumps(config))
    write_engine(wrong, tmp_path / "engine", EXACT)
    with pytest.raises(VerificationFailed) as caught:
        check(checkpoint, tmp_path / "engine")
    assert "largest logit error" in caught.value.message


def test_the_long_context_is_verified_with_its_own_rope(
    built: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    options = replace(EXACT, long_context=LongContext(1024, 4.0, 256))
    checkpoint, engine = built("none", options)
    assert check(checkpoint, engine).long_top1 == 1.0
    wrong = Path(shutil.copytree(engine, tmp_path / "wrong"))
    description = json.loads((wrong / "engine.json").read_text())
    description["context"]["long"]["rope"]["original_max_position_embeddings"] = 8
    (wrong / "engine.json").write_text(json.dumps(description))
    with pytest.raises(VerificationFailed) as caught:
        check(checkpoint, wrong)
    assert "long context" in caught.value.message


def test_the_smoke_answer_has_to_contain_what_is_expected(built: Callable[..., tuple[Path, Path]]) -> None:
    pair = built("none")
    answer = check(*pair, smoke_prompt="What is the capital of France?").answer
    assert answer
    part = answer[:4]
    assert check(*pair, smoke_prompt="What is the capital of France?", smoke_expect=part).answer == answer
    with pytest.raises(VerificationFailed) as caught:
        check(*pair, smoke_prompt="What is the capital of France?", smoke_expect="Paris")
    assert "does not contain 'Paris'" in caught.value.message
    assert caught.value.report.answer == answer


def test_a_checkpoint_without_a_chat_template_gets_the_prompt_as_text(
    built: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    checkpoint, engine = built("none")
    plain = Path(shutil.copytree(checkpoint, tmp_path / "plain"))
    (plain / "chat_template.jinja").unlink()
    prompt = {"smoke_prompt": "The capital of France is"}
    assert check(plain, engine, **prompt).answer != check(checkpoint, engine, **prompt).answer


def test_more_text_than_there_is_says_so(built: Callable[..., tuple[Path, Path]]) -> None:
    with pytest.raises(RecipeError) as caught:
        check(*built("none"), samples=1024, length=8192)
    assert "verify.samples" in caught.value.message


def test_progress_rises_to_its_total(built: Callable[..., tuple[Path, Path]]) -> None:
    seen: list[tuple[int, int]] = []
    verify(*built("none"), RECIPE, lambda done, total: seen.append((done, total)), threads=1)
    assert seen == [(1, 2), (2, 2)]


def logits(seed: int, rows: int = 130) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (rows, 50)).astype(np.float32)


def test_agreement_is_that_of_torch() -> None:
    wanted, got = logits(1), logits(1) + 0.3 * logits(2)
    agreement = Agreement()
    agreement.add(wanted[:40], got[:40])
    agreement.add(wanted[40:], got[40:])
    p, q = (torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (wanted, got))
    assert agreement.mean_kl == pytest.approx((p.exp() * (p - q)).sum(-1).mean().item(), rel=1e-9)
    assert agreement.top1 == pytest.approx(float((wanted.argmax(1) == got.argmax(1)).mean()))
    assert agreement.logit_error == pytest.approx(float(np.abs(wanted - got).max() / np.abs(wanted).max()))
    assert agreement.positions == 130


def test_a_reference_whose_logits_are_all_zero_is_compared_like_any_other() -> None:
    zeros = np.zeros((2, 8), np.float32)
    same, other = Agreement(), Agreement()
    same.add(zeros, zeros)
    other.add(zeros, zeros + 1)
    assert same.logit_error == 0
    assert other.logit_error > 1e6


def test_nan_and_infinity_in_an_engine_are_the_worst_agreement() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        agreement, spoilt = Agreement(), logits(1)
        spoilt[100, 7] = bad
        agreement.add(logits(1), spoilt)
        assert agreement.mean_kl == pytest.approx(WORST / 130)
        assert agreement.logit_error > 1e6 and agreement.top1 == 129 / 130
