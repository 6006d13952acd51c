"""A TensorRT-LLM build end to end: real ModelOpt, a stand-in for trtllm-build, the packaged repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from enginewright.manifest import engine_records
from enginewright.quality.record import read_record
from enginewright.verify_repository import verify_repository
from enginewright_bench import read_limit
from enginewright_errors import (
    GateFailed,
    RecipeError,
    UsageError,
)
from enginewright_front.front_config import read_front_config
from enginewright_trtllm import check_checkpoint
from enginewright_trtllm.check_repository import check_repository
from google.protobuf import text_format
from safetensors.torch import load_file
from tritonclient.grpc import model_config_pb2
from trtllm_builds import FP8, LONG, Builds, names_of


def test_a_build_on_a_gpu_host_ends_in_a_repository_that_is_clean(
    gpu_build: Builds, checkpoint: Path
) -> None:
    shutil.rmtree(gpu_build.cache)
    result = gpu_build(checkpoint)
    assert result.reused == dict.fromkeys(FP8, False)
    assert result.next_steps == ""
    out = gpu_build.out
    assert check_repository(out) == ()
    for config in out.glob("*/config.pbtxt"):
        text = config.read_text()
        assert "${" not in text
        assert text_format.Parse(text, model_config_pb2.ModelConfig()).name == config.parent.name
    assert names_of(out / "tensorrt_llm" / "1" / "engine") == {"config.json", "rank0.engine"}
    assert verify_repository(out).manifest_sha256 == result.manifest_sha256
    front = read_front_config(out / "llm" / "1" / "front.json")
    assert front.tensorrt_llm is not None
    assert [model.max_seq_len for model in front.tensorrt_llm.models] == [256]


@pytest.mark.parametrize(
    ("settings", "stages", "ranks"),
    [
        (("trtllm.kv_cache=fp8", *LONG), FP8, 1),
        (("quantization.format=int4_awq", "quantization.group_size=64", "trtllm.tp=2", *LONG), FP8, 2),
        (("quantization.format=none", "trtllm.workers=1", "trtllm.tp=4"), FP8[2:], 4),
    ],
)
def test_every_format_has_checkpoints_that_upstream_loads_as_meant(
    gpu_build: Builds, checkpoint: Path, settings: tuple[str, ...], stages: list[str], ranks: int
) -> None:
    result = gpu_build(checkpoint, *settings)
    variants = ["native", *(["long"] if LONG[1] in settings else [])]
    assert [stage for stage in result.reused if not stage.startswith("compile")] == [
        stage for stage in stages if not stage.startswith("compile")
    ]
    (entry,) = (gpu_build.cache / "checkpoint").iterdir()
    for variant in variants:
        folder = entry / "files" / variant
        assert check_checkpoint(folder) == ()
        assert names_of(folder) == {"config.json", *(f"rank{rank}.safetensors" for rank in range(ranks))}
    first = load_file(entry / "files" / "native" / "rank0.safetensors")
    assert ("transformer.layers.0.attention.kv_cache_scaling_factor" in first) == (
        "trtllm.kv_cache=fp8" in settings
    )
    models = {path.parent.parent.name for path in gpu_build.out.glob("*/1/engine")}
    assert models == {"tensorrt_llm", "tensorrt_llm_long"} if "long" in variants else {"tensorrt_llm"}
    assert check_repository(gpu_build.out) == ()
    assert verify_repository(gpu_build.out).manifest_sha256 == result.manifest_sha256


def test_a_quantization_that_loses_too_much_ends_the_build_before_rank_files(
    build: Builds, checkpoint: Path
) -> None:
    error = build.fails(GateFailed, checkpoint, "gate.max_kl=0.0000001")
    assert "mean KL from the original" in error.message
    assert error.exit_code == 5
    rejected = build.out.with_name("out.rejected")
    assert str(rejected) in error.hint
    assert (rejected / "checkpoint" / "hf_quant_config.json").is_file()
    assert read_record(rejected).rejected == error.message
    assert not build.out.exists()
    assert not (build.cache / "checkpoint").exists()


def test_another_gate_costs_no_other_engine(gpu_build: Builds, checkpoint: Path) -> None:
    gpu_build(checkpoint)
    assert read_record(gpu_build.out).report.judged is not None
    assert not isinstance(read_limit(gpu_build.out, None), str)
    assert gpu_build(checkpoint, "gate.max_kl=9.0").reused == dict.fromkeys(FP8, True)


@pytest.mark.parametrize("cache", ["auto", "fp8"])
def test_both_checkpoints_answer_where_the_original_fits(build: Builds, checkpoint: Path, cache: str) -> None:
    asked = "report={samples: 1, length: 32, prompts: 2, answer_tokens: 8, items: 0, problems: 1}"
    build(checkpoint, asked, f"trtllm.kv_cache={cache}")
    report = read_record(build.out).report
    assert (report.author, report.note) == ("original", "")
    assert report.greedy is not None and report.greedy.engine is None
    assert report.greedy.checkpoint is not None and report.greedy.checkpoint.first_divergence is not None
    assert [task.engine for task in report.tasks] == [None]
    assert all(task.checkpoint is not None for task in report.tasks)


def test_rank_files_have_one_format_so_nothing_is_repaired(build: Builds, checkpoint: Path) -> None:
    assert "gate.repair" in build.fails(RecipeError, checkpoint, "gate.repair=true").message


def test_what_is_judged_has_the_scales_of_the_rank_files(build: Builds, checkpoint: Path) -> None:
    build(checkpoint)
    (quantized,) = (build.cache / "quantize").iterdir()
    held = load_file(quantized / "files" / "model.safetensors")
    for parts in (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("mlp.gate_proj", "mlp.up_proj"),
    ):
        scales = {float(held[f"model.layers.0.{part}.weight_scale"]) for part in parts}
        assert len(scales) == 1


def test_two_contexts_share_their_weights(gpu_build: Builds, checkpoint: Path) -> None:
    gpu_build(checkpoint, *LONG)
    (entry,) = (gpu_build.cache / "checkpoint").iterdir()
    native, long = (entry / "files" / name for name in ("native", "long"))
    assert (native / "rank0.safetensors").samefile(long / "rank0.safetensors")
    assert json.loads((native / "config.json").read_bytes())["rotary_scaling"] is None
    scaling = json.loads((long / "config.json").read_bytes())["rotary_scaling"]
    assert (scaling["type"], scaling["factor"]) == ("yarn", 4.0)
    assert scaling["original_max_position_embeddings"] == 256


def test_what_did_not_change_is_not_built_again(gpu_build: Builds, checkpoint: Path) -> None:
    first = gpu_build(checkpoint)
    again = gpu_build(checkpoint)
    assert (set(again.reused.values()), again.changed) == ({True}, False)
    assert again.manifest_sha256 == first.manifest_sha256
    bigger = gpu_build(checkpoint, "trtllm.max_batch_size=8").reused
    assert [stage for stage, reused in bigger.items() if not reused] == ["compile-native", "package"]
    longer = gpu_build(checkpoint, *LONG).reused
    assert longer["quantize"]
    assert longer["compile-native"], "its rank files and flags are the same"
    assert not longer["compile-long"]


def test_the_manifest_says_what_the_engine_is_bound_to(gpu_build: Builds, checkpoint: Path) -> None:
    gpu_build(checkpoint)
    assert engine_records(gpu_build.manifest) == {
        "native": {
            "tensorrt_llm": "1.2.1",
            "tensorrt": "10.14.1.48",
            "sm": 90,
            "world_size": 1,
            "gpu_memory_mib": 81_559,
        }
    }
    request = gpu_build.manifest["chain"]["compile-native"]["request"]
    assert request["parameters"]["flags"]["--max_batch_size"] == "4"
    report = json.loads((gpu_build.out / "report.json").read_bytes())["stages"]["compile-native"]
    assert report["builder_memory_bytes"]["host"] == 70 * 2**20
    assert report["planned"]["host_bytes"] > 0


def test_an_engine_from_the_cache_needs_no_gpu(gpu_build: Builds, checkpoint: Path) -> None:
    built = gpu_build(checkpoint)
    gpu_build.host.gpus()
    (gpu_build.host.path / "trtllm-build").unlink()
    again = gpu_build(checkpoint)
    assert (again.manifest_sha256, again.changed, again.next_steps) == (built.manifest_sha256, False, "")
    error = gpu_build.fails(UsageError, checkpoint, "trtllm.max_batch_size=8")
    assert "holds a finished repository" in error.message, "what serves is not replaced by checkpoints"
    assert "--output" in error.hint
