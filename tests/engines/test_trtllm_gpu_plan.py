"""A plan prices a target as the published tables do, and what it says would fit does fit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from enginewright_errors import DoesNotFit, RecipeError
from enginewright_model import ModelSpec, read_model_spec
from enginewright_trtllm.activations import activation_bytes
from enginewright_trtllm.device_memory import device_memory, placement
from enginewright_trtllm.gpu_plan import plan_gpus, require_fit
from enginewright_trtllm.gpus import GPUS, find_gpu, lookup_gpu
from enginewright_trtllm.kv_cache import kv_bytes_per_token
from enginewright_trtllm.layout import stage_entries
from enginewright_trtllm.nearest_change import nearest_changes
from enginewright_trtllm.parallel import Parallel
from enginewright_trtllm.plan_table import plan_table
from enginewright_trtllm.preflight import preflight
from enginewright_trtllm.quantization import quantization_of
from enginewright_trtllm.speed_limits import decode_limit, prefill_seconds
from enginewright_trtllm.stage_costs import stage_costs
from enginewright_trtllm.target import Format, Host, TrtllmTarget, Variant
from enginewright_trtllm.weights import (
    checkpoint_bytes,
    decode_read_bytes,
    engine_bytes,
    linear_parameters,
    source_bytes,
)
from hypothesis import given
from hypothesis import strategies as st
from trtllm_targets import FP8, LONG, NATIVE, QWQ, TARGETS, qwen2

GIB = 2**30
# reference/qwq-32b/facts.md, "Sizes and the physical limit": resident GB, GB read a step, tokens/s on an H100
# at 0, 32k and 128k (None: does not fit), KV tokens on one H100-80.
FACTS: dict[Format, tuple[float, float, tuple[float | None, ...], int]] = {
    "bf16": (65.5, 63.97, (52.4, 46.2, None), 13_800),
    "fp8": (34.3, 32.76, (102, 81, 50), 133_000),
    "int4_awq": (19.2, 17.65, (190, 128, 64), 190_000),
}


def on_h100(model_format: Format) -> TrtllmTarget:
    return TrtllmTarget(model_format, "H100-80")


@pytest.mark.parametrize("model_format", FACTS)
def test_resident_weights_are_those_of_the_table(model_format: Format) -> None:
    resident, read, _, _ = FACTS[model_format]
    target = on_h100(model_format)
    assert engine_bytes(QWQ, target, NATIVE) / 1e9 == pytest.approx(resident, rel=0.03)
    assert decode_read_bytes(QWQ, target) / 1e9 == pytest.approx(read, rel=0.03)


@pytest.mark.parametrize("model_format", FACTS)
def test_kv_tokens_are_those_of_the_table(model_format: Format) -> None:
    (memory,) = device_memory(on_h100(model_format), QWQ).variants
    assert memory.kv_tokens == pytest.approx(FACTS[model_format][3], rel=0.05)
    assert memory.upper_tokens > memory.kv_tokens


def test_int4_kv_tokens_agree_with_the_published_measurement() -> None:
    (memory,) = device_memory(TrtllmTarget("int4_awq", "A100-80"), QWQ).variants
    assert memory.kv_tokens == pytest.approx(193_000, rel=0.05)


@pytest.mark.parametrize("model_format", FACTS)
def test_decode_limits_are_those_of_the_table(model_format: Format) -> None:
    target, gpu = on_h100(model_format), find_gpu("H100-80")
    for context, expected in zip((0, 32_768, 131_072), FACTS[model_format][2], strict=True):
        limit = decode_limit(target, QWQ, gpu, context=context)
        if expected is None:
            (memory,) = device_memory(replace(target, variants=(LONG,)), QWQ).variants
            assert memory.kv_tokens < context
        else:
            assert limit.tokens_per_second == pytest.approx(expected, rel=0.03)


def test_published_memory_of_transformers_is_met_where_it_is_comparable() -> None:
    """Qwen's table for the same geometry, one token of input: 61.58 GiB BF16, 33.56 Int8, 18.67 AWQ.

    BF16 compares as it is: weights and what a process takes beside them. GPTQ-Int8 is no FP8 (scales and
    zero points for every group of 128), AWQ there has zero points: with those, and with the process's share
    as the BF16 row shows it, they compare too.
    """
    bf16 = engine_bytes(QWQ, on_h100("bf16"), NATIVE) / GIB
    assert bf16 == pytest.approx(61.58, rel=0.03)
    process = 61.58 - bf16

    groups = QWQ.num_layers * linear_parameters(QWQ) / 128
    int8 = engine_bytes(QWQ, on_h100("fp8"), NATIVE) + groups * (2 + 1)
    assert int8 / GIB + process == pytest.approx(33.56, rel=0.03)
    awq = engine_bytes(QWQ, on_h100("int4_awq"), NATIVE) + groups * 0.5
    assert awq / GIB + process == pytest.approx(18.67, rel=0.03)


def test_kv_cache_is_256_kib_a_token_and_half_of_it_in_fp8() -> None:
    assert kv_bytes_per_token(QWQ, fp8=False) * 131_072 == 32 * GIB
    assert kv_bytes_per_token(QWQ, fp8=True) * 131_072 == 16 * GIB


def test_parameters_are_those_of_the_card() -> None:
    assert source_bytes(QWQ) / 2 == pytest.approx(32.76e9, rel=0.001)
    assert QWQ.num_layers * linear_parameters(QWQ) == pytest.approx(31.21e9, rel=0.001)


@pytest.mark.parametrize(("model_format", "tp", "pp"), product(FACTS, (1, 2, 4, 8), (1, 2)))
def test_checkpoint_bytes_are_the_bytes_of_the_tensors_that_are_written(
    model_format: Format, tp: int, pp: int
) -> None:
    quantization, parallel = quantization_of(model_format), Parallel(tp, pp)
    sizes = {"BF16": 2, "F32": 4, "I8": 1, "F8_E4M3": 1}
    written = 0
    for stage in range(pp):
        for entry in stage_entries(QWQ, quantization, parallel, stage):
            elements = 1
            for length in entry.shape:
                elements *= length
            written += tp * elements * sizes[entry.dtype]
    planned = checkpoint_bytes(QWQ, TrtllmTarget(model_format, "H100-80", gpu_count=tp * pp, tp=tp, pp=pp))
    assert planned == pytest.approx(written, rel=1e-5)


@pytest.mark.parametrize(("model_format", "tp", "pp"), product(FACTS, (1, 2, 4, 8), (1, 2)))
def test_ranks_share_the_weights_and_more_of_them_hold_more_tokens(
    model_format: Format, tp: int, pp: int
) -> None:
    one = device_memory(TrtllmTarget(model_format, "B200-192"), QWQ).variants[0]
    many = TrtllmTarget(model_format, "B200-192", gpu_count=tp * pp, tp=tp, pp=pp)
    memory = device_memory(many, QWQ).variants[0]
    # The lm_head or the embedding of a pipeline stage is not shared out.
    assert memory.weights <= one.weights / (tp * pp) + QWQ.vocab_size * QWQ.hidden_size * 2 / tp + 2**28
    assert memory.kv_tokens >= one.kv_tokens * tp * pp * 0.9
    assert engine_bytes(QWQ, many, NATIVE) == pytest.approx(
        engine_bytes(QWQ, on_h100(model_format), NATIVE), 0.02
    )


def test_activations_grow_with_the_step_and_match_what_was_measured_for_this_geometry() -> None:
    assert activation_bytes(QWQ, FP8) == pytest.approx(2.5e9, rel=0.05)
    assert activation_bytes(QWQ, replace(FP8, max_num_tokens=2048)) < 1.2e9


@pytest.mark.parametrize("name", TARGETS)
def test_recipes_fit_and_promise_a_sequence_of_full_length(name: str) -> None:
    plan = plan_gpus(TARGETS[name], QWQ)
    require_fit(plan)
    for item in plan.memory.variants:
        assert item.sequences(item.variant.max_seq_len) >= 1


@pytest.mark.parametrize(
    ("target", "nearest"),
    [
        (on_h100("bf16"), "trtllm.max_num_tokens: 2048 and trtllm.kv_cache_free_gpu_mem_fraction: 0.95"),
        (replace(on_h100("bf16"), gpu_count=2), "trtllm.tp: 2 on 2 x H100-80"),
        (
            replace(on_h100("fp8"), variants=(Variant("native", 40_960),), gpu="L40S"),
            "trtllm.max_seq_len: 22528",
        ),
        (TrtllmTarget("fp8", "L4"), "trtllm.tp: 4 on 4 x L4-24"),
        (TrtllmTarget("int4_awq", "RTX4090-24"), "trtllm.tp: 2 on 2 x RTX4090-24"),
        (
            TrtllmTarget("int4_awq", "H100-80", variants=(NATIVE, LONG)),
            "trtllm.max_seq_len: 20480 and context.long.max_seq_len: 83968",
        ),
    ],
)
def test_the_nearest_change_takes_the_least(target: TrtllmTarget, nearest: str) -> None:
    assert nearest_changes(target, QWQ)[0].description == nearest


def test_a_single_small_card_is_told_which_context_it_can_have() -> None:
    changes = nearest_changes(TrtllmTarget("int4_awq", "RTX4090-24", max_batch_size=4), QWQ)
    assert changes[-1].description == (
        "trtllm.max_seq_len: 8192 with trtllm.max_num_tokens: 1024"
        " and trtllm.kv_cache_free_gpu_mem_fraction: 0.95"
    )


@pytest.mark.parametrize(
    ("model_format", "gpu", "length"),
    product(FACTS, ("H100-80", "L4-24", "B200-192", "A100-40", "RTX4090-24"), (32_768, 131_072)),
)
def test_every_change_fits_and_builds(model_format: Format, gpu: str, length: int) -> None:
    variant = NATIVE if length == NATIVE.max_seq_len else LONG
    target = TrtllmTarget(model_format, gpu, variants=(variant,))
    for change in nearest_changes(target, QWQ):
        assert plan_gpus(change.target, QWQ).fits, change.description
        assert not change.target.fp8_kv or change.target.format == "fp8"
        if not any(
            finding.severity == "error" and finding.at == "build" for finding in preflight(target, QWQ)
        ):
            assert not [item for item in preflight(change.target, QWQ) if item.severity == "error"]


def test_what_does_not_fit_is_refused_with_numbers_and_a_way_out() -> None:
    with pytest.raises(DoesNotFit, match=r"13,728 tokens, one sequence of 32,768") as caught:
        require_fit(plan_gpus(on_h100("bf16"), QWQ))
    assert caught.value.code == "kv-cache"
    assert "quantization.format: fp8" in caught.value.hint
    assert caught.value.exit_code == 3


def test_variants_on_shared_gpus_divide_the_cache_and_never_more_than_there_is() -> None:
    target = TrtllmTarget("int4_awq", "H200-141", variants=(NATIVE, LONG))
    memory = device_memory(target, QWQ)
    native, long = memory.variants
    assert memory.placement == "shared"
    assert long.kv_tokens == pytest.approx(4 * native.kv_tokens, rel=0.01)
    used = sum(item.weights + item.activations for item in memory.variants)
    used += (native.kv_tokens + long.kv_tokens) * kv_bytes_per_token(QWQ, fp8=False)
    assert 0.99 * memory.budget < used <= memory.budget


def test_variants_get_gpus_of_their_own_when_there_are_enough() -> None:
    target = TrtllmTarget("int4_awq", "H100-80", gpu_count=4, tp=2, variants=(NATIVE, LONG))
    assert placement(target) == "separate"
    assert placement(replace(target, gpu_count=3)) == "shared"
    alone = device_memory(replace(target, variants=(LONG,), gpu_count=2), QWQ).variants[0]
    assert device_memory(target, QWQ).variants[1].kv_tokens == alone.kv_tokens


def test_a_small_host_is_refused_where_the_builder_would_be_killed() -> None:
    costs = {cost.stage: cost for cost in stage_costs(FP8, QWQ, find_gpu("H100-80"))}
    assert costs["quantize"].host_bytes > 65.5e9
    assert costs["checkpoint"].host_bytes < 8e9
    plan = plan_gpus(replace(FP8, host=Host(ram_bytes=32 * 10**9, disk_bytes=50 * 10**9)), QWQ)
    assert {item.code for item in plan.shortfalls} == {"host-memory", "disk"}
    assert plan_gpus(replace(FP8, host=Host(ram_bytes=128 * 10**9)), QWQ).fits


def tied_llama(*sizes: int) -> ModelSpec:
    return replace(qwen2(*sizes), architecture="llama", tie_word_embeddings=True)


def test_judging_the_checkpoint_needs_a_layer_of_each_model_not_the_models() -> None:
    """Embeddings and output projections of both in float32 are 12.5 GB of it."""
    target = replace(FP8, report_tokens=1088)
    (report,) = [cost for cost in stage_costs(target, QWQ, find_gpu("H100-80")) if cost.stage == "report"]
    assert 12.5e9 < report.host_bytes < 25e9
    assert (report.device_bytes, report.disk_bytes) == (0, 0)
    more = stage_costs(replace(target, report_tokens=10_880), QWQ, find_gpu("H100-80"))[1]
    assert report.seconds < more.seconds and report.host_bytes < more.host_bytes < 2 * report.host_bytes
    for nothing in (replace(FP8, report_tokens=0), replace(target, format="bf16")):
        names = [cost.stage for cost in stage_costs(nothing, QWQ, find_gpu("H100-80"))]
        assert "report" not in names, "nothing is judged"


@pytest.mark.parametrize(
    ("dims", "reported"),
    [
        (tied_llama(3584, 14_336, 42, 16, 8, 256, 256_000), 40_291),
        # Falcon's MLP has two matrices where ours has three: 4 x 2048 x 2/3.
        (tied_llama(2048, 5461, 24, 32, 32, 64, 50_304), 10_624),
    ],
    ids=["gemma-2-9b", "falcon-rw-1b"],
)
def test_host_memory_of_a_build_is_what_public_logs_report(dims: ModelSpec, reported: int) -> None:
    target = TrtllmTarget("bf16", "A100-80", variants=(Variant("native", 2048),))
    (build,) = [cost for cost in stage_costs(target, dims, find_gpu("A100-80")) if cost.stage == "build"]
    assert build.host_bytes == pytest.approx(reported * 2**20, rel=0.1)


def test_prefill_is_bound_by_flops_and_longer_prompts_cost_more_than_in_proportion() -> None:
    gpu = find_gpu("H100-80")
    short, double = (prefill_seconds(FP8, QWQ, gpu, prompt=n) for n in (32_768, 65_536))
    assert short == pytest.approx(2 * 31.21e9 * 32_768 / 1979e12, rel=0.8)
    assert double > 2 * short
    assert prefill_seconds(replace(FP8, tp=2, gpu_count=2), QWQ, gpu, prompt=32_768) == pytest.approx(
        short / 2
    )


def test_large_batches_are_bound_by_flops_not_bandwidth() -> None:
    gpu = find_gpu("L4-24")
    one, many = (decode_limit(FP8, QWQ, gpu, context=128, batch=n) for n in (1, 4096))
    together = many.batch * many.tokens_per_second
    assert together > 100 * one.tokens_per_second
    assert together < 242e12 / (2 * 31e9)


@given(
    fraction=st.floats(0.3, 0.95),
    more=st.floats(0.001, 0.04),
    tokens=st.integers(1, 64).map(lambda n: n * 512),
)
def test_more_memory_for_the_cache_never_holds_fewer_tokens(
    fraction: float, more: float, tokens: int
) -> None:
    small = replace(FP8, kv_cache_free_gpu_mem_fraction=fraction, max_num_tokens=tokens)
    large = replace(small, kv_cache_free_gpu_mem_fraction=fraction + more)
    (less,), (room,) = (device_memory(target, QWQ).variants for target in (small, large))
    assert less.kv_tokens <= room.kv_tokens
    assert less.kv_tokens % small.tokens_per_block == 0


def test_the_table_shows_every_figure_that_a_user_decides_by() -> None:
    rows = dict(plan_table(plan_gpus(TARGETS["qwq-32b-int4-awq-yarn"], QWQ)))
    assert rows["GPUs"] == "2 x H100-80, tp 1, variants separate"
    assert rows["native: KV tokens"].startswith("190,400")
    assert rows["long: sequences"].endswith("1 at 131,072")
    assert "host" in rows["stage build long"]
    broken = plan_table(plan_gpus(on_h100("bf16"), QWQ))
    assert ("would fit", "quantization.format: fp8") in broken


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("H100", "H100-80"),
        ("h100-80", "H100-80"),
        ("NVIDIA H100 PCIe", "H100-80-PCIe"),
        ("rtx 4090", "RTX4090-24"),
        ("NVIDIA GeForce RTX 4090", "RTX4090-24"),
        ("l40s", "L40S-48"),
        ("A100-40", "A100-40"),
    ],
)
def test_gpus_are_found_by_the_names_people_use(name: str, found: str) -> None:
    assert find_gpu(name).name == found


def test_an_unknown_gpu_names_the_known_ones() -> None:
    assert lookup_gpu("TPU v5") is None
    with pytest.raises(RecipeError, match="TPU v5") as caught:
        plan_gpus(replace(FP8, gpu="TPU v5"), QWQ)
    assert "H100-80" in caught.value.hint


def test_the_table_of_gpus_is_consistent() -> None:
    for gpu in GPUS.values():
        assert gpu.visible_bytes >= gpu.memory_bytes
        assert (gpu.fp8_flops is None) == (gpu.sm < 89)
        assert any(alias.startswith("NVIDIA ") for alias in gpu.aliases)
        assert all(lookup_gpu(alias) is gpu for alias in gpu.aliases)


def test_dimensions_come_from_either_generation_of_config() -> None:
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 5120,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "intermediate_size": 27648,
        "vocab_size": 152064,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    assert read_model_spec(config | {"rope_theta": 1e6}) == QWQ
    assert read_model_spec(config | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}) == QWQ
