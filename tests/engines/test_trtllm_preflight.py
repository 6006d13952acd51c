"""Every rule of the preflight finds its trap, and the recipes have none."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from enginewright_errors import RecipeError
from enginewright_model import ModelSpec, RopeSpec
from enginewright_trtllm.finding import errors_of, require_no_errors
from enginewright_trtllm.preflight import RULES, preflight
from enginewright_trtllm.target import Host, TrtllmTarget, Variant, Yarn
from trtllm_targets import FP8, LONG, NATIVE, QWQ, TARGETS, qwen2

AWQ = TrtllmTarget("int4_awq", "H100-80")
PLENTY = replace(FP8, gpu="H200-141", gpu_count=8, tp=8)


def long_with(factor: float, original: int | None, length: int = 131_072) -> tuple[Variant, ...]:
    return (NATIVE, Variant("long", length, Yarn(factor, original)))


# Code -> (a target that has this trap and no other, the dimensions it has it with).
BROKEN: dict[str, tuple[TrtllmTarget, ModelSpec]] = {
    "trtllm-version": (replace(FP8, tensorrt_llm="1.2.0", container="26.03"), QWQ),
    "container": (replace(FP8, container="26.03"), QWQ),
    "gpu-unknown": (replace(FP8, gpu="TPU"), QWQ),
    "tp-does-not-divide": (replace(PLENTY, tp=3, gpu_count=3), QWQ),
    "pp-does-not-divide": (replace(PLENTY, tp=1, pp=3, gpu_count=3), QWQ),
    "world-size-gpus": (replace(PLENTY, gpu_count=4), QWQ),
    "gpus-idle": (replace(FP8, gpu_count=2), QWQ),
    "nodes-tp": (replace(PLENTY, nodes=2), QWQ),
    "nodes-variants": (
        replace(PLENTY, nodes=2, tp=4, pp=2, variants=long_with(4.0, 32_768)),
        QWQ,
    ),
    "int4-sm100": (replace(AWQ, gpu="B200-192"), QWQ),
    "fp8-sm89": (replace(FP8, gpu="A100-80"), QWQ),
    "sm120-unseen": (
        replace(AWQ, gpu="RTX5090-32", max_num_tokens=2048, variants=(Variant("native", 8192),)),
        QWQ,
    ),
    "awq-group-size": (replace(AWQ, group_size=32), QWQ),
    "fp8-kv-without-fp8": (replace(AWQ, fp8_kv=True), QWQ),
    "fp8-kv-bias": (replace(FP8, fp8_kv=True), QWQ),
    "yarn-original": (replace(PLENTY, variants=long_with(4.0, None)), QWQ),
    "yarn-factor": (replace(PLENTY, variants=long_with(1.0, 32_768, 32_768)), QWQ),
    "context-beyond-yarn": (replace(PLENTY, variants=long_with(4.0, 32_768, 131_073)), QWQ),
    "yarn-original-range": (replace(PLENTY, variants=long_with(4.0, 65_536)), QWQ),
    "context-beyond-model": (replace(FP8, variants=(Variant("native", 40_961),)), QWQ),
    "yarn-only": (replace(PLENTY, variants=(LONG,)), QWQ),
    "yarn-in-checkpoint": (
        FP8,
        replace(QWQ, rope=RopeSpec("yarn", 1e6, factor=4.0, original_max_position_embeddings=32_768)),
    ),
    "rope-theta-default": (FP8, replace(QWQ, rope=RopeSpec("default", 10_000.0))),
    "chunked-context-off": (replace(FP8, chunked_context=False), QWQ),
    "chunk-blocks": (replace(FP8, max_num_tokens=8190), QWQ),
    "batch-tokens": (replace(FP8, max_num_tokens=32, max_batch_size=64), QWQ),
    "queue-unbounded": (replace(FP8, max_queue_size=0), QWQ),
    "kv-fraction": (replace(FP8, kv_cache_free_gpu_mem_fraction=0.98), QWQ),
    "weights": (replace(FP8, gpu="L4-24"), QWQ),
    "kv-cache": (replace(FP8, format="bf16"), QWQ),
    "host-memory": (replace(FP8, host=Host(ram_bytes=70 * 10**9)), QWQ),
    "disk": (replace(FP8, host=Host(disk_bytes=60 * 10**9)), QWQ),
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_trap_is_found_by_its_rule_and_by_no_other(code: str) -> None:
    target, dims = BROKEN[code]
    found = preflight(target, dims)
    assert {finding.code for finding in found} == {code}
    for finding in found:
        assert finding.reason
        assert finding.remedy.endswith(".")
        assert finding.code in str(finding)


@pytest.mark.parametrize("name", TARGETS)
def test_the_recipes_pass(name: str) -> None:
    assert preflight(TARGETS[name], QWQ) == ()


def test_every_rule_is_exercised() -> None:
    silent = [rule for rule in RULES if not any(list(rule(*case)) for case in BROKEN.values())]
    assert silent == []


def test_all_rules_together_take_far_less_than_a_second() -> None:
    start = time.process_time()
    for target, dims in BROKEN.values():
        preflight(target, dims)
    assert time.process_time() - start < 1.0


def test_errors_come_first_and_stop_the_build() -> None:
    target = replace(AWQ, gpu="B200-192", fp8_kv=True, max_queue_size=0)
    found = preflight(target, QWQ)
    assert [finding.severity for finding in found] == ["error", "error", "warning"]
    with pytest.raises(RecipeError, match=r"and 1 more") as caught:
        require_no_errors(found)
    assert caught.value.code == errors_of(found)[0].code
    require_no_errors(preflight(replace(FP8, max_queue_size=0), QWQ))


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_qwq_divides_over_1_2_4_and_8_ranks_in_every_format(tp: int) -> None:
    for model_format in ("bf16", "fp8", "int4_awq"):
        target = TrtllmTarget(model_format, "H200-141", gpu_count=tp, tp=tp)
        assert preflight(target, QWQ) == ()


def test_a_small_model_that_upstream_pads_and_refuses_is_caught() -> None:
    """Qwen2.5-0.5B with AWQ fails at tp 2: 896 is no multiple of 128 x 2."""
    small = qwen2(896, 4864, 24, 14, 2, 64, 151_936)
    target = TrtllmTarget("int4_awq", "L4-24", gpu_count=2, tp=2)
    (finding,) = preflight(target, small)
    assert (finding.code, finding.at) == ("tp-does-not-divide", "build")
    assert "multiple of 256" in finding.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tp", 0),
        ("max_batch_size", 0),
        ("kv_cache_free_gpu_mem_fraction", 1.0),
        ("variants", ()),
        ("nodes", -1),
    ],
)
def test_values_that_mean_nothing_are_refused_at_once(field: str, value: object) -> None:
    with pytest.raises(RecipeError, match=field):
        replace(FP8, **{field: value})
