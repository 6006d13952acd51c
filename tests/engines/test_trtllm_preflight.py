"""Each trap of TensorRT-LLM has a rule: a target that falls into it alone is caught by that rule alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from enginewright_errors import RecipeError
from enginewright_model import ModelSpec, RopeSpec
from enginewright_trtllm.build_command import build_command
from enginewright_trtllm.check_build_flags import check_build_flags
from enginewright_trtllm.check_checkpoint_config import check_checkpoint_config
from enginewright_trtllm.check_environment import check_environment
from enginewright_trtllm.check_repository import check_repository
from enginewright_trtllm.config import CONFIG_KEYS, QWEN_KEYS, render_config
from enginewright_trtllm.finding import Finding, errors_of, require_no_errors
from enginewright_trtllm.nvidia_smi import parse_nvidia_smi
from enginewright_trtllm.parallel import Parallel
from enginewright_trtllm.preflight import RULES, preflight
from enginewright_trtllm.quantization import quantization_of
from enginewright_trtllm.target import Host, TrtllmTarget, Variant, Yarn
from enginewright_trtllm.triton_model import render_triton_model
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
    start = time.perf_counter()
    for target, dims in BROKEN.values():
        preflight(target, dims)
    assert time.perf_counter() - start < 1.0


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


# config.json of a checkpoint


def config_of(target: TrtllmTarget, variant: Variant) -> dict[str, Any]:
    yarn = variant.yarn
    scaling = None
    if yarn is not None:
        scaling = {
            "type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
        }
    return render_config(
        QWQ,
        quantization_of(target.format, fp8_kv=target.fp8_kv, group_size=target.group_size),
        Parallel(target.tp, target.pp),
        rotary_base=1e6,
        rotary_scaling=scaling,
        max_position_embeddings=variant.max_seq_len,
        logits_dtype=target.logits_dtype,
    )


@pytest.mark.parametrize("name", TARGETS)
def test_the_config_that_is_written_for_a_target_has_no_findings(name: str) -> None:
    target = TARGETS[name]
    for variant in target.variants:
        assert check_checkpoint_config(config_of(target, variant), target, variant) == ()


@pytest.mark.parametrize("key", [*CONFIG_KEYS, *QWEN_KEYS])
def test_a_missing_key_is_found_and_said_where_it_hurts(key: str) -> None:
    config = config_of(FP8, NATIVE)
    del config[key]
    findings = check_checkpoint_config(config, FP8, NATIVE)
    assert any(finding.code == "config-key-missing" and key in finding.message for finding in findings)
    silent = "rotary_base", "rotary_scaling", "hidden_act", "norm_epsilon", "position_embedding_type"
    if key in silent:
        assert findings[0].at == "run"
    if key in ("qwen_type", "seq_length", "architecture", "max_position_embeddings"):
        assert findings[0].at == "build"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"max_position_embeddings": 16_384}, "checkpoint-positions"),
        ({"logits_dtype": "float32"}, "checkpoint-logits"),
        ({"mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1}}, "checkpoint-mapping"),
        (
            {
                "rotary_scaling": {
                    "type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32_768,
                }
            },
            "checkpoint-scaling",
        ),
        ({"quantization": {"quant_algo": None, "kv_cache_quant_algo": None}}, "checkpoint-quantization"),
        ({"qwen_type": "qwen1"}, "config-value"),
    ],
)
def test_a_sound_config_that_is_not_what_was_promised_is_found(changes: dict[str, Any], code: str) -> None:
    findings = check_checkpoint_config(config_of(FP8, NATIVE) | changes, FP8, NATIVE)
    assert {finding.code for finding in findings} == {code}


# trtllm-build's command line

COMMAND = build_command(FP8, NATIVE, checkpoint="/c", output="/e")


def with_flag(name: str, value: str) -> list[str]:
    if name in COMMAND:
        index = COMMAND.index(name)
        return [*COMMAND[: index + 1], value, *COMMAND[index + 2 :]]
    return [*COMMAND, name, value]


@pytest.mark.parametrize("name", TARGETS)
def test_our_own_commands_have_no_findings(name: str) -> None:
    target = TARGETS[name]
    for variant in target.variants:
        command = build_command(target, variant, checkpoint="/c", output="/e")
        assert check_build_flags(command, target) == ()


@pytest.mark.parametrize(
    ("flag", "value", "code"),
    [
        ("--max_output_len", "512", "flag-removed"),
        ("--tp_size", "2", "flag-removed"),
        ("--paged_kv_cache", "enable", "flag-deprecated"),
        ("--build_config", "b.json", "flag-build-config"),
        ("--max_input_len", "1024", "flag-max-input-len"),
        ("--opt_num_tokens", "16", "flag-opt-num-tokens"),
        ("--gemm_allreduce_plugin", "auto", "flag-gemm-allreduce"),
        ("--workers", "0", "flag-workers"),
        ("--context_fmha", "disable", "flag-in-flight"),
        ("--remove_input_padding", "disable", "flag-in-flight"),
        ("--kv_cache_type", "continuous", "flag-kv-cache-type"),
        ("--use_paged_context_fmha", "disable", "flag-paged-fmha"),
        ("--use_fp8_context_fmha", "enable", "flag-fp8-fmha"),
    ],
)
def test_a_flag_that_does_not_mean_what_it_says_is_found(flag: str, value: str, code: str) -> None:
    assert [finding.code for finding in check_build_flags(with_flag(flag, value), FP8)] == [code]


def test_a_command_without_a_sequence_length_is_refused_however_flags_are_spelt() -> None:
    index = COMMAND.index("--max_seq_len")
    without = COMMAND[:index] + COMMAND[index + 2 :]
    assert [finding.code for finding in check_build_flags(without, FP8)] == ["flag-max-seq-len"]
    assert check_build_flags([*without, "--max_seq_len=32768"], FP8) == ()
    assert check_build_flags([*without, "--max-seq-len", "32768"], FP8) == ()


# a rendered repository


def repository(folder: Path, target: TrtllmTarget = FP8) -> Path:
    for variant in target.variants:
        model = folder / target.model_name(variant)
        engine = model / "1" / "engine"
        engine.mkdir(parents=True)
        (model / "config.pbtxt").write_text(render_triton_model(target, variant, QWQ))
        (engine / "config.json").write_text(json.dumps({"pretrained_config": config_of(target, variant)}))
        for rank in range(target.world_size):
            (engine / f"rank{rank}.engine").write_bytes(b"engine")
    return folder


@pytest.mark.parametrize("name", TARGETS)
def test_the_repository_of_a_target_that_passes_has_no_findings(name: str, tmp_path: Path) -> None:
    assert check_repository(repository(tmp_path, TARGETS[name])) == ()


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "tensorrt_llm" / "config.pbtxt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "tensorrt_llm" / "1" / "engine" / name).unlink()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (edit("max_batch_size: 16", "max_batch_size: ${triton_max_batch_size}"), "template-variable"),
        (
            edit('string_value: "0.9"', 'string_value: "${kv_cache_free_gpu_mem_fraction}"'),
            "template-variable",
        ),
        (edit("inflight_fused_batching", "inflight_fused"), "batching"),
        (edit("inflight_fused_batching", "V1"), "batching"),
        (edit('key: "tokenizer_dir"', 'key: "tokenizer"'), "parameter-missing"),
        (
            edit('"medusa_choices" value { string_value: ""', '"medusa_choices" value { string_value: "{0}"'),
            "speculation",
        ),
        (
            edit(
                '"enable_chunked_context" value { string_value: "true"',
                '"enable_chunked_context" value { string_value: "false"',
            ),
            "chunked-context-off",
        ),
        (edit("decoupled: true", "decoupled: false"), "decoupled"),
        (edit("/models/tensorrt_llm/1/engine", "engines/qwq"), "engine-path"),
        (remove("config.json"), "engine-missing"),
        (remove("rank0.engine"), "engine-ranks"),
        (edit("TYPE_FP16 dims: [ -1, -1 ] }", "TYPE_FP32 dims: [ -1, -1 ] }"), "logits-datatype"),
    ],
)
def test_a_repository_with_a_trap_is_found(change: Callable[[Path], None], code: str, tmp_path: Path) -> None:
    folder = repository(tmp_path)
    change(folder)
    assert {finding.code for finding in check_repository(folder)} == {code}


def test_variables_in_comments_are_no_variables(tmp_path: Path) -> None:
    folder = repository(tmp_path)
    path = folder / "tensorrt_llm" / "config.pbtxt"
    path.write_text("# fill in ${engine_dir}\n" + path.read_text() + "# ${x}")
    assert check_repository(folder) == ()


def test_a_left_variable_is_found_in_every_model_not_only_the_c_plus_plus_one(tmp_path: Path) -> None:
    folder = repository(tmp_path)
    (folder / "ensemble").mkdir()
    (folder / "ensemble" / "config.pbtxt").write_text('name: "ensemble"\nmax_batch_size: ${n}\n')
    (finding,) = check_repository(folder)
    assert (finding.code, finding.at) == ("template-variable", "load")
    assert finding.message.startswith("ensemble/config.pbtxt")


def test_a_left_variable_is_said_to_hurt_where_it_does(tmp_path: Path) -> None:
    path = repository(tmp_path) / "tensorrt_llm" / "config.pbtxt"
    text = path.read_text()
    for old, new, at in (
        ('backend: "tensorrtllm"', 'backend: "${triton_backend}"', "load"),
        ("decoupled: true", "decoupled: ${decoupled_mode}", "load"),
        ('string_value: "0.9"', 'string_value: "${fraction}"', "run"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        places = {finding.at for finding in check_repository(tmp_path) if finding.code == "template-variable"}
        assert places == {at}


# the machine that serves

ENGINE = {
    "tensorrt_llm": "1.2.1",
    "tensorrt": "10.14.1.48",
    "sm": 90,
    "world_size": 2,
    "gpu_memory_mib": 81_559,
}
H100 = {"name": "NVIDIA H100 80GB HBM3", "memory_mib": 81_559, "sm": 90}
MACHINE: dict[str, Any] = {"tensorrt_llm": "1.2.1", "tensorrt": "10.14.1.48", "gpus": [H100, H100]}


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in findings]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"tensorrt_llm": "1.3.0"}, ["environment-tensorrt-llm"]),
        ({"tensorrt": "10.13.3.9"}, ["environment-tensorrt"]),
        ({"gpus": [H100]}, ["environment-gpus"]),
        ({"gpus": [H100, H100 | {"sm": 89}]}, ["environment-sm"]),
        ({"gpus": [H100, H100 | {"memory_mib": 40_960}]}, ["environment-memory"]),
        ({"gpus": [H100, H100, H100 | {"sm": 80}]}, []),
    ],
)
def test_an_engine_is_held_against_the_machine_before_triton_starts(
    changes: dict[str, Any], expected: list[str]
) -> None:
    assert codes(check_environment(ENGINE, MACHINE | changes)) == expected


def test_the_container_that_would_fit_is_named() -> None:
    (finding,) = check_environment(ENGINE, MACHINE | {"tensorrt_llm": "1.3.0"})
    assert "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3" in finding.remedy


def test_a_few_megabytes_less_are_the_same_card() -> None:
    assert check_environment(ENGINE, MACHINE | {"gpus": [H100, H100 | {"memory_mib": 81_079}]}) == ()


@pytest.mark.parametrize(
    ("name", "driver", "cuda", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "580.95.05", "13.1", []),
        ("NVIDIA H100 80GB HBM3", "570.86.15", "13.1", ["warning"]),
        ("NVIDIA GeForce RTX 4090", "570.86.15", "13.1", ["error"]),
        ("NVIDIA GeForce RTX 4090", "570.86.15", None, []),
        ("NVIDIA GeForce RTX 4090", "[N/A]", "13.1", []),
    ],
)
def test_an_old_driver_stops_cards_that_have_no_compatibility_libraries(
    name: str, driver: str, cuda: str | None, expected: list[str]
) -> None:
    gpu = H100 | {"name": name, "driver": driver}
    found = check_environment(ENGINE, MACHINE | {"gpus": [gpu, gpu], "cuda": cuda})
    assert [(finding.code, finding.severity) for finding in found] == [
        ("environment-driver", severity) for severity in expected
    ]


def test_what_is_not_known_is_not_compared() -> None:
    assert check_environment(ENGINE, {}) == ()
    assert check_environment({}, MACHINE) == ()


def test_gpus_are_read_from_nvidia_smi() -> None:
    output = (
        "NVIDIA H100 80GB HBM3, 81559, 9.0\nNVIDIA GeForce RTX 5090, 32607, 12.0\n\nNo devices were found\n"
        "NVIDIA H100 80GB HBM3, 81559, [N/A]\n"
    )
    assert parse_nvidia_smi(output) == [
        H100,
        {"name": "NVIDIA GeForce RTX 5090", "memory_mib": 32_607, "sm": 120},
    ]
