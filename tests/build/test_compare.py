"""`enginewright compare`: several formats of one tiny model, built, measured and shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_call import call_cli
from enginewright.load_recipe import load_recipe
from enginewright.quality.rounding import plain_rounding_cost, round_to_int4
from enginewright.quality.texts import load_report_texts
from enginewright.quality.variants import make_variants, parse_formats
from enginewright.recipe import ReportRecipe
from enginewright.torch_session import torch_session
from enginewright_errors import UsageError
from transformers import AutoModelForCausalLM

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Command:
    """`run("compare", ...)`: (exit code, stdout, stderr)."""
    monkeypatch.setenv("ENGINEWRIGHT_CACHE", str(tmp_path_factory.getbasetemp() / "compare-cache"))

    def call(*arguments: object) -> tuple[int, str, str]:
        return call_cli(monkeypatch, capfd, *arguments)

    return call


@pytest.fixture(scope="module")
def checkpoint(tiny: Callable[..., Path]) -> Path:
    return tiny(arch="llama", hidden=64, intermediate=128, layers=2, heads=2, kv_heads=1)


SETTINGS = (
    "quantization.group_size=64", "quantization.calibration={samples: 1, length: 64}",
    "verify={samples: 1, length: 16, max_kl: 10.0, min_top1: 0.0}",
    "report={samples: 2, length: 32, prompts: 1, answer_tokens: 8, items: 2}",
)  # fmt: skip
SETS = [part for setting in SETTINGS for part in ("--set", setting)]


def test_formats_are_built_and_shown_side_by_side(run: Command, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("compare", checkpoint, "-o", tmp_path / "out", "--memory-bandwidth", "40GB/s", *SETS)
    code, out, errors = run(*arguments, "--formats", "int4_awq,fp8", "--html", tmp_path / "c.html")
    assert (code, errors) == (0, "")
    for label in ("int4_awq", "int4_awq, calibrated on chat", "fp8", "plain rounding"):
        assert label in out
    page = (tmp_path / "c.html").read_text()
    assert page.count("<svg") == 1 and "plain rounding" in page and "src=" not in page
    code, out, _ = run(*arguments, "--formats", "int4_awq,fp8", "--json")
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert code == 0 and result["ok"]
    assert sum('"verb": "built"' in line for line in out.splitlines()) == 0, "the cache has it all"
    rows = {row["label"]: row for row in result["rows"]}
    assert rows["fp8"]["weight_bytes"] > rows["int4_awq"]["weight_bytes"]
    kl = {label: row["report"]["held_out"]["engine"]["mean_kl"]["value"] for label, row in rows.items()}
    assert 0 < kl["fp8"] < kl["int4_awq"]
    assert kl["fp8"] < result["rounding"]["checkpoint"]["mean_kl"]["value"]
    for row in rows.values():
        assert 0 < row["one"]["slowest"] <= row["one"]["median"] <= row["one"]["fastest"]
        assert row["several"]["streams"] == 8
    built = json.loads((tmp_path / "out" / "fp8" / "report.json").read_bytes())
    assert built["gate"]["max_kl"] == 100.0, "a comparison does not judge"


def test_a_build_that_is_not_its_checkpoint_is_a_row_that_says_so(
    run: Command, checkpoint: Path, tmp_path: Path
) -> None:
    code, out, errors = run(
        "compare", checkpoint, "-o", tmp_path / "out", "--formats", "fp8,none", "--no-calibration", *SETS,
        "--memory-bandwidth", "40GB/s", "--set", "verify.max_kl=1.0e-9",
    )  # fmt: skip
    assert code == 0
    assert "verify: mean KL is" in out and "warning: fp8: verify: mean KL" in errors + out
    assert "plain rounding" not in out, "there is no INT4 to hold it against"


def test_engines_that_do_not_fit_together_are_compared_without_speed(
    run: Command, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginewright.quality.comparison.available_memory", lambda: 1000)
    code, out, _ = run(
        "compare",
        checkpoint,
        "-o",
        tmp_path / "out",
        "--formats",
        "none",
        *SETS,
        "--memory-bandwidth",
        "40GB/s",
    )
    assert code == 0 and "no decode speeds: all engines at once need" in out


def test_the_other_calibration_is_the_one_that_the_recipe_does_not_have() -> None:
    demo = load_recipe("smollm2-135m-int4-awq")
    plain = make_variants(demo, ["none", "int4_awq"], calibration=True)
    assert [variant.recipe.name for variant in plain] == ["none", "int4_awq", "int4_awq-plain"]
    assert not plain[2].recipe.quantization.calibration.chat_template
    assert plain[1].recipe.quantization == demo.quantization
    assert plain[1].recipe.verify.smoke_expect is None, "a comparison shows what is bad, too"
    chat = make_variants(plain[2].recipe, ["fp8"], calibration=True)
    assert [variant.recipe.name for variant in chat] == ["fp8", "fp8-chat"]
    assert len(make_variants(demo, ["none"], calibration=True)) == 1


def test_formats_are_checked_before_anything_is_built() -> None:
    assert parse_formats("fp8, int4-awq,fp8") == ("fp8", "int4_awq")
    for text in ("fp9", "", " , "):
        with pytest.raises(UsageError, match="--formats"):
            parse_formats(text)


def test_plain_rounding_is_that_of_modelopt(checkpoint: Path) -> None:
    """What `mtq.INT4_BLOCKWISE_WEIGHT_ONLY_CFG` makes of the same weights, and of the same text."""
    import copy

    import modelopt.torch.quantization as mtq

    config: Any = copy.deepcopy(mtq.INT4_BLOCKWISE_WEIGHT_ONLY_CFG)
    for entry in config["quant_cfg"]:
        if entry["quantizer_name"] == "*weight_quantizer":
            entry["cfg"]["block_sizes"] = {-1: 64}
    texts = load_report_texts(ReportRecipe(samples=2, length=32, prompts=0, items=0), checkpoint, 256)
    with torch_session(1):
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        ids = torch.from_numpy(texts.held_out[:, :-1].astype(np.int64))
        before = torch.log_softmax(model(ids).logits.double(), -1)
        weight = model.model.layers[0].mlp.down_proj.weight.detach().numpy().copy()
        mtq.quantize(model, config)
        layer = model.model.layers[0].mlp.down_proj
        theirs = layer.weight_quantizer(layer.weight).detach().numpy()
        after = torch.log_softmax(model(ids).logits.double(), -1)
    assert round_to_int4(weight, 64) == pytest.approx(theirs, abs=1e-6)
    cost = plain_rounding_cost(checkpoint, texts.held_out, 64, threads=1).checkpoint
    assert cost is not None
    kl = (before.exp() * (before - after)).sum(-1).mean().item()
    assert cost.mean_kl.value == pytest.approx(kl, rel=1e-3)


def test_a_group_of_zeros_stays_zero() -> None:
    weight = np.zeros((2, 32), np.float32)
    weight[1, 5] = 3.0
    assert (round_to_int4(weight, 16) == weight).all()
