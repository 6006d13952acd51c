"""A TensorRT-LLM build end to end: real ModelOpt, a stand-in for trtllm-build, the packaged repository."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from build_runs import flip
from enginewright.durable import json_bytes
from enginewright.hashing import digest
from enginewright.manifest import engine_records
from enginewright.quality.record import read_record
from enginewright.verify_repository import verify_repository
from enginewright_bench import read_limit
from enginewright_errors import (
    DoesNotFit,
    GateFailed,
    RecipeError,
    StageFailed,
    UsageError,
)
from enginewright_front.front_config import read_front_config
from enginewright_trtllm import check_checkpoint
from enginewright_trtllm.check_repository import check_repository
from google.protobuf import text_format
from gpu_host import H100, GpuHost
from safetensors.torch import load_file
from tritonclient.grpc import model_config_pb2
from trtllm_builds import SETTINGS, Builds

LONG = ("context.native=256", "context.long={max_seq_len: 1024, factor: 4.0}")
FP8 = ["quantize", "report", "checkpoint", "verify", "compile-native", "package"]


@pytest.fixture(scope="module")
def checkpoint(tiny: Callable[..., Path]) -> Path:
    """QwQ's proportions: 40 query heads on 8 KV heads, biases on q, k and v."""
    return tiny(arch="qwen2", hidden=640, intermediate=256, layers=1, heads=40, kv_heads=8, dtype="bfloat16")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuHost:
    """A machine without a GPU, until a test gives it one."""
    made = GpuHost(tmp_path / "host")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture(scope="module")
def quantized(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the FP8 quantization and its report: they take seconds, and nearly every test needs
    them."""
    root = tmp_path_factory.mktemp("quantized")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/usr/bin:/bin")
        build = Builds(root / "root", GpuHost(root / "host"))
        build(checkpoint)
    return build.cache


@pytest.fixture
def build(tmp_path: Path, host: GpuHost, quantized: Path) -> Builds:
    made = Builds(tmp_path / "root", host)
    for stage in ("quantize", "report"):
        shutil.copytree(quantized / stage, made.cache / stage, copy_function=os.link)
    return made


@pytest.fixture
def gpu_build(build: Builds) -> Builds:
    """The same with a builder and an H100."""
    build.host.gpus(H100)
    build.host.builder()
    return build


def names_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


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


# where nothing can build engines


def test_without_a_builder_the_checkpoints_are_handed_off(build: Builds, checkpoint: Path) -> None:
    result = build(checkpoint, *LONG)
    assert names_of(build.out) == {"checkpoint", "build-engines.sh", "manifest.json", "report.json"}
    assert names_of(build.out / "checkpoint") == {"native", "long", "model"}
    why, here, there = result.next_steps.splitlines()
    assert "no trtllm-build is on PATH" in why
    assert "`build-engine out --container`" in here
    assert "26.07-trtllm-python-py3" in here
    assert "sh out/build-engines.sh" in there
    assert verify_repository(build.out).manifest_sha256 == result.manifest_sha256
    again = build(checkpoint, *LONG)
    assert (set(again.reused.values()), again.changed) == ({True}, False)
    rank = build.out / "checkpoint" / "native" / "rank0.safetensors"
    flip(rank)
    with pytest.raises(GateFailed, match=r"rank0\.safetensors differs"):
        verify_repository(build.out)


def test_it_goes_on_from_a_copy_on_the_gpus_machine(build: Builds, checkpoint: Path, tmp_path: Path) -> None:
    build(checkpoint, *LONG)
    there = Builds(tmp_path / "there", build.host)
    folder = there.root / "carried"
    shutil.copytree(build.out, folder)
    build.host.gpus(H100)
    build.host.docker()
    result = there(folder, container=True)
    assert list(result.reused) == ["checkpoint", "verify", "compile-native", "compile-long", "package"]
    assert check_repository(there.out) == ()
    assert verify_repository(there.out).manifest_sha256 == result.manifest_sha256
    before, after = build.manifest, there.manifest
    assert after["recipe"] == before["recipe"]
    for link in ("source", "calibration", "quantize", "checkpoint", "verify"):
        assert after["chain"][link] == before["chain"][link]
    run = next(call for call in build.host.docker_calls() if call[0] == "run")
    assert "--read-only" in run
    assert any(word.endswith("dst=/checkpoint,readonly") for word in run)
    assert run[run.index("--max_seq_len") + 1] == "256"


def test_a_carried_folder_that_was_damaged_or_asked_for_more_is_refused(
    build: Builds, checkpoint: Path, tmp_path: Path
) -> None:
    build(checkpoint)
    there = Builds(tmp_path / "there", build.host)
    folder = there.root / "carried"
    shutil.copytree(build.out, folder)
    assert "no trtllm-build" in there.fails(UsageError, folder).message
    build.host.gpus(H100)
    build.host.builder()
    error = there.fails(RecipeError, folder, "trtllm.tp=2")
    assert error.message == f"trtllm.tp is 2, and {folder} was made with 1"
    assert there(folder, "trtllm.max_batch_size=2", output=tmp_path / "smaller").changed
    flip(folder / "checkpoint" / "native" / "rank0.safetensors")
    shutil.rmtree(there.cache)
    assert "rank0.safetensors is not what the manifest says" in there.fails(GateFailed, folder).message


def test_what_the_script_built_is_taken(build: Builds, checkpoint: Path) -> None:
    build(checkpoint, *LONG)
    build.host.gpus(H100)
    build.host.docker()
    script = subprocess.run(
        ["sh", build.out / "build-engines.sh"], capture_output=True, text=True, check=False
    )
    assert script.returncode == 0, script.stderr
    build.host.gpus()  # home again
    result = build(checkpoint, *LONG)
    assert list(result.reused)[-3:] == ["compile-native", "compile-long", "package"]
    assert result.changed
    record = engine_records(build.manifest)["long"]
    assert (record["tensorrt_llm"], record["tensorrt"], record["sm"]) == ("1.2.1", "10.14.1.48", 90)
    assert check_repository(build.out) == ()
    assert verify_repository(build.out).manifest_sha256 == result.manifest_sha256


def test_a_half_done_or_outdated_engine_of_the_script_is_kept_and_not_used(
    build: Builds, checkpoint: Path
) -> None:
    build(checkpoint)
    engine = build.out / "engine-native"
    engine.mkdir()
    (engine / "rank0.engine").write_bytes(b"half")
    result = build(checkpoint)
    assert result.next_steps
    assert f"{engine} is not used" in build.text
    assert (engine / "rank0.engine").exists()


# refusals and failures


@pytest.mark.parametrize(
    ("prepare", "message", "hint"),
    [
        (lambda host: host.versions("1.3.0", "10.15"), "TensorRT-LLM 1.3.0 cannot be used", "26.07-trtllm"),
        (
            lambda host: host.gpus("NVIDIA L40S, 46068, 8.9"),
            "has SM 89, the plan is for H100-80",
            "--gpu L40S-48",
        ),
        (lambda host: host.gpus("NVIDIA H100 MIG, 20000, 9.0"), "has 20000 MiB", "26.07-trtllm"),
    ],
)
def test_another_machine_than_the_recipes_is_refused_before_anything_is_fetched(
    gpu_build: Builds, prepare: Callable[[GpuHost], None], message: str, hint: str
) -> None:
    prepare(gpu_build.host)
    error = gpu_build.fails(UsageError, Path("Qwen/QwQ-32B"))
    assert message in error.message
    assert hint in error.hint
    assert error.exit_code == 2
    assert names_of(gpu_build.cache) == {"quantize", "report"}, "the build did not begin"


def test_what_cannot_work_is_said_before_anything_is_fetched(build: Builds) -> None:
    error = build.fails(DoesNotFit, Path("Qwen/QwQ-32B"), "trtllm.gpu=L4", "trtllm.max_seq_len=32768")
    assert error.exit_code == 3
    assert "would fit" in error.hint
    error = build.fails(RecipeError, Path("Qwen/QwQ-32B"), "trtllm.tp=3", "trtllm.gpus=3")
    assert "num_attention_heads 40" in error.message
    assert names_of(build.cache) == {"quantize", "report"}, "the build did not begin"


def test_container_without_docker_is_said_at_once(build: Builds, checkpoint: Path) -> None:
    build.host.gpus(H100)
    assert "docker is not here" in build.fails(UsageError, checkpoint, container=True).message


def test_a_builder_that_fails_shows_its_last_error_and_the_cause(
    gpu_build: Builds, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BUILDER", "fail")
    error = gpu_build.fails(StageFailed, checkpoint)
    assert error.exit_code == 4
    assert "INT8/INT4 quantization is not supported on SM>=100." in error.message
    assert "INT4 weights do not run on this GPU" in error.message
    log = Path(error.hint.rpartition(" ")[2])
    assert "Build TensorRT engine" in log.read_text()
    assert not gpu_build.out.exists()
    monkeypatch.delenv("FAKE_BUILDER")
    reused = gpu_build(checkpoint).reused
    assert [stage for stage, was in reused.items() if not was] == ["compile-native", "package"]


def test_a_container_that_fails_is_removed(
    build: Builds, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.host.gpus(H100)
    build.host.docker()
    monkeypatch.setenv("FAKE_BUILDER", "fail")
    build.fails(StageFailed, checkpoint, container=True)
    removed, run, again = build.host.docker_calls()
    assert removed[:2] == again[:2] == ["rm", "--force"]
    assert run[run.index("--name") + 1] == again[2] == removed[2]


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_build_that_is_killed_while_it_compiles_takes_the_builder_with_it_and_goes_on(
    gpu_build: Builds, checkpoint: Path, tmp_path: Path, signal_number: signal.Signals
) -> None:
    gpu_build.host.note_pid(tmp_path / "pid")
    command = [Path(sys.executable).with_name("build-engine"), checkpoint, "-o", gpu_build.out, "--json"]
    command += [part for text in (*SETTINGS, "target=trtllm") for part in ("--set", text)]
    environment = {**os.environ, "FAKE_BUILDER": "stall", "ENGINEWRIGHT_CACHE": str(gpu_build.cache)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            assert event["event"] != "result", event
            if (event["event"], event.get("stage")) == ("progress", "compile-native"):
                break
        builder = os.pidfd_open(int((tmp_path / "pid").read_text()))
        process.send_signal(signal_number)
        process.stdout.read()
        assert process.wait(30) == (-9 if signal_number == signal.SIGKILL else 143)
    assert select.select([builder], [], [], 30)[0], "the builder still runs"
    os.close(builder)
    assert not gpu_build.out.exists()
    reused = gpu_build(checkpoint).reused
    assert reused == {**dict.fromkeys(FP8, True), "compile-native": False, "package": False}
    assert list((gpu_build.cache / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("tampered", "found"),
    [
        (
            ("compile-native", "request", "inputs", "checkpoint"),
            "compile-native was not made",
        ),
        (("checkpoint", "request", "inputs", "original"), "checkpoint was not made"),
        (("package", "request", "inputs", "verified"), "package does not follow from this verify"),
    ],
)
def test_a_link_that_was_exchanged_is_found(
    gpu_build: Builds, checkpoint: Path, tampered: tuple[str, ...], found: str
) -> None:
    gpu_build(checkpoint)
    manifest = gpu_build.manifest
    stage, *path, last = tampered
    section = manifest["chain"][stage]
    for name in path:
        section = section[name]
    section[last] = "0" * 64
    manifest["chain"][stage]["key"] = digest(manifest["chain"][stage]["request"])
    (gpu_build.out / "manifest.json").write_bytes(json_bytes(manifest))
    with pytest.raises(GateFailed, match=found):
        verify_repository(gpu_build.out)


# the commands


def run(build: Builds, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("enginewright"), *arguments]
    environment = {**os.environ, "ENGINEWRIGHT_CACHE": str(build.cache)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def settings() -> list[str]:
    return [part for text in SETTINGS for part in ("--set", text)]


def test_the_command_builds_hands_off_and_goes_on(build: Builds, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "carried"
    built = run(build, "build", checkpoint, "--gpu", "H100", "-o", out, *settings())
    assert built.returncode == 0, built.stderr
    first, *steps = built.stdout.splitlines()[-4:]
    assert first.startswith(f"built: {out} (manifest ")
    assert steps[0] == "no engine was built: no trtllm-build is on PATH"
    assert run(build, "verify", out).returncode == 0
    alone = run(build, "build", out)
    assert alone.returncode == 2
    assert "cannot be built here" in alone.stderr
    build.host.gpus(H100)
    build.host.builder()
    went_on = run(build, "build", out, "--max-batch-size", "2", "-o", tmp_path / "repository", "--json")
    assert went_on.returncode == 0, went_on.stderr
    result = json.loads(went_on.stdout.splitlines()[-1])
    assert result["next_steps"] == []
    verified = run(build, "verify", tmp_path / "repository")
    assert verified.stdout.startswith("verified: tiny, ")


def test_plan_needs_no_gpu_no_weights_and_no_network(build: Builds) -> None:
    planned = run(build, "build", "Qwen/QwQ-32B", "--gpu", "H100", "--tp-size", "2", "--plan")
    assert planned.returncode == 0, planned.stderr
    assert "2 x H100-80, tp 2" in planned.stdout
    assert "this machine" in planned.stdout
    small = run(build, "plan", "Qwen/QwQ-32B", "--gpu", "L4")
    assert small.returncode == 3
    assert small.stdout.index("preflight: 1 findings") > 0
    assert "hint: What would fit: trtllm.tp: 4 on 4 x L4-24" in small.stderr


def test_every_finding_is_shown_before_the_exit_code_says_that_it_does_not_fit(build: Builds) -> None:
    flags = ("--gpu", "L4", "--set", "trtllm.max_num_tokens=100", "--set", "trtllm.kv_cache=fp8")
    planned = run(build, "build", "Qwen/QwQ-32B", *flags)
    assert planned.returncode == 3
    for code in ("weights", "chunk-blocks", "fp8-kv-bias"):
        assert f"[{code}]" in planned.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smollm2-135m-fp8", "--container"), "--container: an ONNX engine is compiled here"),
        (("smollm2-135m-fp8", "--gpu", "H100"), "--gpu H100: an ONNX engine runs in one process"),
        (("qwq-32b-fp8-h100", "--set", "engine.threads=4"), "engine is a section of target onnx"),
    ],
)
def test_what_is_for_the_other_target_is_said(
    build: Builds, arguments: tuple[str, ...], message: str
) -> None:
    refused = run(build, "build", *arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
