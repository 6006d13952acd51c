"""Mixed precision: layers that stay as they are, and the search for the few that have to."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from build_runs import EASY, STAGES
from enginewright.load_recipe import load_recipe, parse_set
from enginewright.pipeline import BuildResult
from enginewright.progress import PlainReporter
from enginewright.quality.figures import LayerCost
from enginewright.quality.gate import QualityGateFailed
from enginewright.quality.record import read_record
from enginewright.repair import build_within_gate, layers_to_keep
from enginewright.verify_repository import verify_repository
from enginewright_errors import RecipeError
from hypothesis import given
from hypothesis import strategies as st

SETTINGS = (
    *EASY, "name=tiny", "quantization.format=int4_awq", "quantization.group_size=64",
    "quantization.calibration={samples: 1, length: 64}",
    "report={samples: 2, length: 64, prompts: 0, items: 0}",
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tiny: Callable[..., Path]) -> Path:
    return tiny(arch="qwen2", hidden=64, intermediate=128, layers=11, heads=2, kv_heads=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repair")


def build(checkpoint: Path, root: Path, *settings: str) -> tuple[BuildResult, str]:
    stream = io.StringIO()
    recipe = load_recipe(str(checkpoint), [parse_set(text) for text in (*SETTINGS, *settings)])
    result = build_within_gate(
        recipe,
        root / "out",
        reporter=PlainReporter(stream, stream),
        cache_folder=root / "cache",
        read_bandwidth=4e10,
    )
    return result, stream.getvalue()


def kl_of(output: Path) -> float:
    judged = read_record(output).report.judged
    assert judged is not None
    return judged.mean_kl.value


@pytest.mark.parametrize("quantization", ["int4_awq", "fp8", "int8_sq"])
def test_a_kept_layer_is_the_originals_and_costs_what_was_planned(
    checkpoint: Path, root: Path, quantization: str
) -> None:
    """Layer 1 and not layer 10, whose name begins alike."""
    settings = (
        f"quantization.format={quantization}",
        "quantization.keep_layers=[1]",
        "report.sensitivity=true",
    )
    result, _ = build(checkpoint, root, *settings)
    verify_repository(result.output)
    report = result.report["stages"]["report"]["measured"]
    costs = [item["mean_kl"] for item in report["layers"]]
    assert costs[1] < 1e-9
    assert min(costs[:1] + costs[2:]) > 1e-6
    sizes = result.report["plan"]["sizes"]
    manifest = json.loads((result.output / "manifest.json").read_bytes())
    assert manifest["chain"]["quantize"]["request"]["parameters"]["keep_layers"] == [1]
    assert sizes["weight_bytes"] == pytest.approx(
        manifest["chain"]["compile"]["facts"]["weight_bytes"], rel=0.05
    )
    (folder,) = [
        path.parent for path in (root / "cache" / "quantize").glob("*/files/hf_quant_config.json")
        if "model.layers.1.*" in path.read_text()
        and json.loads(path.read_text())["quantization"]["quant_algo"]
        == {"int4_awq": "W4A16_AWQ", "fp8": "FP8", "int8_sq": "W8A8_SQ_PER_CHANNEL"}[quantization]
    ]  # fmt: skip
    assert "model.layers.1*" not in (folder / "config.json").read_text()


def test_repair_keeps_as_few_layers_as_the_gate_asks_for(checkpoint: Path, root: Path) -> None:
    whole, _ = build(checkpoint, root)
    bound = 0.8 * kl_of(whole.output)
    with pytest.raises(QualityGateFailed):
        build(checkpoint, root, f"gate.max_kl={bound}")
    result, text = build(checkpoint, root, f"gate.max_kl={bound}", "gate.repair=true")
    assert kl_of(result.output) <= bound
    kept = json.loads((result.output / "manifest.json").read_bytes())["recipe"]["quantization"]["keep_layers"]
    assert 1 <= len(kept) <= 5
    assert f"repair: keeping the layers {', '.join(map(str, kept))}" in text
    again, _ = build(checkpoint, root, f"gate.max_kl={bound}", "gate.repair=true")
    assert (again.manifest_sha256, again.changed) == (result.manifest_sha256, False)
    assert [again.reused[stage] for stage in STAGES] == [True] * 5


def test_what_cannot_be_repaired_is_rejected(checkpoint: Path, root: Path) -> None:
    with pytest.raises(QualityGateFailed) as caught:
        build(checkpoint, root, "gate.max_kl=1.0e-9", "gate.repair=true")
    assert caught.value.exit_code == 5
    assert str(root / "out.rejected") in caught.value.hint
    kept = json.loads((root / "out.rejected" / "manifest.json").read_bytes())["recipe"]["quantization"]
    assert len(kept["keep_layers"]) == 5, "half of the layers is the last attempt"


def test_a_layer_that_is_not_there_is_named_before_anything_is_built(
    checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="keep_layers: there is no layer 11, the model has 11"):
        build(checkpoint, tmp_path, "quantization.keep_layers=[3, 11]")
    with pytest.raises(RecipeError, match="all 11 layers are kept"):
        build(checkpoint, tmp_path, f"quantization.keep_layers={list(range(11))}")
    assert not (tmp_path / "cache" / "quantize").exists()


@given(
    costs=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=80),
    kl=st.floats(0.001, 5.0),
    share=st.floats(0.0, 1.2),
)
def test_attempts_grow_from_the_costliest_layers_to_half_of_all(
    costs: Sequence[float], kl: float, share: float
) -> None:
    attempts = list(layers_to_keep([LayerCost(*item) for item in enumerate(costs)], kl, share * kl))
    assert 1 <= len(attempts) <= 12
    assert len(attempts[-1]) == len(costs) // 2
    for fewer, more in itertools.pairwise(attempts):
        assert set(fewer) < set(more)
    for attempt in attempts:
        left = [cost for index, cost in enumerate(costs) if index not in attempt]
        assert min(costs[index] for index in attempt) >= max(left)
