"""The build command, the container that runs it, the script for another host, and the builder's log."""

from __future__ import annotations

import csv
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from enginewright_errors import StageFailed, UsageError
from enginewright_trtllm.build_command import build_command, build_flags
from enginewright_trtllm.build_failures import likely_cause
from enginewright_trtllm.build_output import BuildLog, BuildMemory
from enginewright_trtllm.build_script import render_build_script
from enginewright_trtllm.container import Mount, build_container, docker_run, serve_container
from enginewright_trtllm.launch import Launch
from enginewright_trtllm.target import TrtllmTarget
from hypothesis import given
from hypothesis import strategies as st
from trtllm_targets import FP8, LONG, NATIVE, TARGETS

AWQ = TrtllmTarget("int4_awq", "H100-80")
BF16 = TrtllmTarget("bf16", "H200-141")
# What a user's path may hold; a line end or NUL cannot be mounted.
PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), min_size=1).map(
    lambda s: f"/d/{s}"
)


def flags_of(target: TrtllmTarget, variant: object = None) -> dict[str, str]:
    flags = build_flags(target, variant or target.variants[0], checkpoint="/c", output="/e")  # type: ignore[arg-type]
    assert all(flag.reason for flag in flags)
    return {flag.name: flag.value for flag in flags}


def test_the_suggested_command_for_qwq_with_its_whole_context() -> None:
    target = replace(AWQ, variants=(LONG,))
    assert shlex.join(build_command(target, LONG, checkpoint="/c", output="/e")) == (
        "trtllm-build --checkpoint_dir /c --output_dir /e --max_batch_size 16 --max_num_tokens 8192"
        " --max_seq_len 131072 --max_beam_width 1 --kv_cache_type paged --tokens_per_block 32"
        " --remove_input_padding enable --gpt_attention_plugin auto --context_fmha enable"
        " --use_paged_context_fmha enable --use_fp8_context_fmha disable --gemm_plugin auto"
        " --multiple_profiles disable --logits_dtype float16 --workers 1"
        " --output_timing_cache /tmp/model.cache --log_level info"
    )


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (FP8, "disable"),
        (replace(FP8, fp8_kv=True), "enable"),
        (AWQ, "disable"),
        (BF16, "disable"),
    ],
)
def test_prompts_are_attended_in_fp8_only_where_weights_and_cache_are_fp8(
    target: TrtllmTarget, expected: str
) -> None:
    assert flags_of(target)["--use_fp8_context_fmha"] == expected


def test_the_fp8_gemm_plugin_is_for_small_batches_only() -> None:
    assert flags_of(FP8)["--gemm_plugin"] == "auto"
    assert flags_of(replace(FP8, max_batch_size=4))["--gemm_plugin"] == "fp8"
    assert flags_of(replace(AWQ, max_batch_size=4))["--gemm_plugin"] == "auto"
    assert flags_of(FP8)["--multiple_profiles"] == "enable"


def test_workers_are_ranks_and_every_variant_has_its_length() -> None:
    target = replace(FP8, tp=4, pp=2, gpu_count=8, variants=(NATIVE, LONG))
    assert flags_of(target)["--workers"] == "8"
    assert [flags_of(target, variant)["--max_seq_len"] for variant in target.variants] == ["32768", "131072"]


def test_paged_attention_goes_off_only_with_everything_that_needs_it() -> None:
    assert flags_of(replace(FP8, kv_reuse=False))["--use_paged_context_fmha"] == "enable"
    neither = replace(FP8, kv_reuse=False, chunked_context=False)
    assert flags_of(neither)["--use_paged_context_fmha"] == "disable"


# docker


def option(argv: list[str], name: str) -> list[str]:
    return [argv[index + 1] for index, part in enumerate(argv) if part == name]


def test_the_builder_has_no_network_no_capabilities_and_writes_one_folder() -> None:
    argv = build_container(
        replace(FP8, tp=2, gpu_count=2),
        NATIVE,
        checkpoint="/data/ckpt",
        output="/data/engine",
        user="1001:1001",
    )
    assert argv[:3] == ["docker", "run", "--rm"]
    assert option(argv, "--network") == ["none"]
    assert option(argv, "--cap-drop") == ["ALL"]
    assert option(argv, "--security-opt") == ["no-new-privileges"]
    assert option(argv, "--user") == ["1001:1001"]
    assert option(argv, "--gpus") == ["2"]
    assert option(argv, "--mount") == [
        "type=bind,src=/data/ckpt,dst=/checkpoint,readonly",
        "type=bind,src=/data/engine,dst=/engine",
    ]
    assert "--read-only" in argv
    assert "HF_HUB_OFFLINE=1" in option(argv, "--env")
    image = argv.index("nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3")
    command = argv[image + 1 :]
    assert command[:5] == ["trtllm-build", "--checkpoint_dir", "/checkpoint", "--output_dir", "/engine"]
    timing_cache = command[command.index("--output_timing_cache") + 1]
    assert timing_cache.startswith("/tmp/")


def test_the_server_reads_its_models_only_and_listens_on_the_loopback() -> None:
    argv = serve_container(FP8, repository="/srv/models")
    assert option(argv, "--mount") == ["type=bind,src=/srv/models,dst=/models,readonly"]
    assert option(argv, "--publish") == ["127.0.0.1:8001:8001", "127.0.0.1:8002:8002"]
    assert option(argv, "--user") == ["1000:1000"]
    assert option(argv, "--shm-size") == ["2g"]
    assert "--read-only" in argv
    assert "tritonserver" in argv
    assert "--network" not in argv


@given(PATHS)
def test_any_path_is_mounted_as_it_is_and_survives_the_shell(path: str) -> None:
    argv = serve_container(FP8, repository=path)
    assert shlex.split(shlex.join(argv)) == argv
    (mount,) = option(argv, "--mount")
    # Docker reads --mount as one line of CSV.
    (fields,) = csv.reader([mount])
    assert fields == ["type=bind", f"src={path}", "dst=/models", "readonly"]


@pytest.mark.parametrize("path", ["", "/a\nb", "/a\0b"])
def test_paths_that_cannot_be_mounted_are_refused(path: str) -> None:
    with pytest.raises(UsageError, match="cannot be mounted"):
        serve_container(FP8, repository=path)


def test_single_gpus_can_be_chosen() -> None:
    argv = docker_run(
        "image", Launch(("true",)), mounts=(Mount("/a", "/b", True),), gpus=(1, 3), user="1:1", shm=1
    )
    assert option(argv, "--gpus") == ['"device=1,3"']


# the script for another host

STUB = """#!/bin/sh
printf '%s\\n' "$@" >>"{log}"
printf '[11/24/2026-10:00:00] [TRT-LLM] [I] Serializing engine to rank0.engine...\\n'
[ -z "$FAIL" ] || exit 1
for argument; do
    case $argument in
    type=bind,src=*,dst=/engine) out=${{argument#type=bind,src=}}; out=${{out%,dst=/engine}} ;;
    esac
done
[ -n "$out" ] || while [ $# -gt 0 ]; do [ "$1" = --output_dir ] && out=$2; shift; done
for rank in {ranks}; do echo engine >"$out/rank$rank.engine"; done
echo '{{}}' >"$out/config.json"
"""


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder with spaces and a quote in its name, with two checkpoints and a PATH of its own beside it."""
    folder = tmp_path / "it's my build"
    for name in ("checkpoint-native", "checkpoint-long"):
        (folder / name).mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for tool in ("dirname", "mkdir", "rm", "mv", "tail", "seq", "id", "wc", "cat"):
        (tmp_path / "bin" / tool).symlink_to(f"/usr/bin/{tool}")
    return folder


def stub(host: Path, name: str, ranks: str) -> None:
    path = host.parent / "bin" / name
    path.write_text(STUB.format(log=host.parent / "calls.txt", ranks=ranks))
    path.chmod(0o755)


def run(host: Path, target: TrtllmTarget, **env: str) -> subprocess.CompletedProcess[str]:
    script = host / "build-engines.sh"
    script.write_text(render_build_script(target, {"native": "checkpoint-native", "long": "checkpoint-long"}))
    environment = {"PATH": str(host.parent / "bin"), "FAIL": "", **env}
    return subprocess.run(
        ["/bin/sh", str(script)], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


BOTH = TARGETS["qwq-32b-int4-awq-yarn"]


def test_the_script_builds_every_variant_in_docker_wherever_it_stands(host: Path) -> None:
    stub(host, "docker", "0")
    result = run(host, BOTH)
    assert result.returncode == 0, result.stderr
    for name in ("native", "long"):
        assert (host / f"engine-{name}" / "rank0.engine").exists()
        assert not (host / f"engine-{name}.part").exists()
    calls = (host.parent / "calls.txt").read_text().splitlines()
    assert f"type=bind,src={host}/checkpoint-long,dst=/checkpoint,readonly" in calls
    assert f"{os.getuid()}:{os.getgid()}" in calls
    assert calls.count("--max_seq_len") == 2


def test_a_second_run_of_the_script_builds_nothing(host: Path) -> None:
    stub(host, "docker", "0")
    run(host, BOTH)
    before = (host.parent / "calls.txt").read_text()
    again = run(host, BOTH)
    assert "already built" in again.stderr
    assert (host.parent / "calls.txt").read_text() == before


def test_a_failed_build_leaves_no_engine_and_shows_the_log(host: Path) -> None:
    stub(host, "docker", "0")
    result = run(host, BOTH, FAIL="1")
    assert result.returncode == 4
    assert "Serializing engine" in result.stderr
    assert not (host / "engine-native").exists()
    assert run(host, BOTH).returncode == 0


def test_a_build_that_misses_a_rank_is_no_build(host: Path) -> None:
    stub(host, "docker", "0")
    result = run(host, replace(FP8, tp=2, gpu_count=2))
    assert result.returncode == 4
    assert "rank1.engine is missing" in result.stderr


def test_a_host_without_docker_uses_a_builder_of_the_right_version_only(host: Path) -> None:
    stub(host, "trtllm-build", "0")
    python = host.parent / "bin" / "python3"
    for version, code in (("1.3.0", 2), ("1.2.1", 0)):
        python.write_text(f"#!/bin/sh\necho {version}\n")
        python.chmod(0o755)
        result = run(host, FP8)
        assert result.returncode == code, result.stderr
    assert "1.2.1 is needed" in run_with_version(host, "0.20.0")


def run_with_version(host: Path, version: str) -> str:
    (host.parent / "bin" / "python3").write_text(f"#!/bin/sh\necho {version}\n")
    return run(host, FP8).stderr


def test_a_host_with_neither_says_what_to_do(host: Path) -> None:
    result = run(host, FP8)
    assert result.returncode == 2
    assert "26.07-trtllm-python-py3" in result.stderr


# the builder's log

LOG = """\
[TensorRT-LLM] TensorRT-LLM version: 1.2.1
[11/24/2026-10:00:01] [TRT-LLM] [W] padding removal and fMHA are both enabled, max_input_len is not required
[11/24/2026-10:00:09] [TRT-LLM] [I] Total time of constructing network from module object 8.1 seconds
[11/24/2026-10:00:10] [TRT-LLM] [I] Build TensorRT engine Unnamed Network 0
[11/24/2026-10:01:00] [TRT] [I] Total Activation Memory: 2462056448 bytes
[11/24/2026-10:01:00] [TRT] [I] Total Weights Memory: 34338908160 bytes
[11/24/2026-10:01:01] [TRT] [I] Engine generation completed in 50.1 seconds.
[11/24/2026-10:01:01] [TRT] [I] [MemUsageStats] Peak memory usage of TRT CPU/GPU memory allocators: CPU 8\
 MiB, GPU 33000 MiB
[11/24/2026-10:01:30] [TRT] [I] [MemUsageStats] Peak memory usage during Engine building and serialization:\
 CPU: 70000 MiB
[11/24/2026-10:01:31] [TRT-LLM] [I] Serializing engine to /engine/rank0.engine...
[11/24/2026-10:02:05] [TRT-LLM] [I] Engine serialized. Total time: 00:00:34
""".splitlines()


def test_progress_rises_from_nothing_to_all_and_never_falls() -> None:
    log, fractions, steps = BuildLog(1), [], []
    for line in LOG:
        log.feed(line + "\n")
        fractions.append(log.fraction)
        steps.append(log.step)
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert list(dict.fromkeys(steps)) == [
        "starting",
        "network",
        "compiling",
        "compiled",
        "writing",
        "written",
    ]


def test_ranks_that_build_side_by_side_are_counted_together() -> None:
    log = BuildLog(2)
    for line in LOG:
        log.feed(line)
    assert log.fraction == 0.5
    for line in LOG[:4]:
        log.feed(line)
    assert 0.5 < log.fraction < 0.6
    assert log.step == "compiling, 1 of 2 ranks written"


def test_what_the_builder_measured_is_kept() -> None:
    log = BuildLog(1)
    assert log.memory == BuildMemory(None, None, None, None)
    for line in LOG:
        log.feed(line)
    assert log.memory == BuildMemory(70_000 * 2**20, 33_000 * 2**20, 2_462_056_448, 34_338_908_160)


@pytest.mark.parametrize(
    ("lines", "exit_code", "code"),
    [
        (["RuntimeError: INT8/INT4 quantization is not supported on SM>=100."], 1, "int4-sm100"),
        (["AttributeError: 'QWenConfig' object has no attribute 'seq_length'"], 1, "config-key-missing"),
        (["KeyError: 'architecture'"], 1, "config-key-missing"),
        (["ValueError: Unsupported rotary scaling type: default"], 1, "rope-type"),
        (
            ["TypeError: QuantConfig.__init__() got an unexpected keyword argument 'foo'"],
            1,
            "quantization-key",
        ),
        (["AssertionError: num_attention_heads must be divisible by tp_size"], 1, "tp-heads"),
        (["RuntimeError: Required but not provided tensors:{'lm_head.weight'}"], 1, "checkpoint-tensors"),
        (
            ["RuntimeError: Encounter error 'The value updated is not the same shape as the original."],
            1,
            "checkpoint-tensors",
        ),
        (["ValueError: max_workers must be greater than 0"], 1, "no-gpu"),
        (["RuntimeError: No CUDA GPUs are available"], 1, "no-gpu"),
        (["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."], 1, "device-memory"),
        (
            ["[11/24/2026-10:00:00] [TRT] [E] Error Code 2: OutOfMemory (no further information)"],
            1,
            "device-memory",
        ),
        (
            ["[11/24/2026-10:00:00] [TRT] [E] plugin node X requires 210571452800 bytes of scratch space"],
            1,
            "workspace",
        ),
        (["trtllm-build: error: unrecognized arguments: --max_output_len 5"], 2, "flags"),
        (["KeyError: 'FooForCausalLM'"], 1, "architecture"),
        (["OSError: [Errno 28] No space left on device"], 1, "disk"),
        (["PermissionError: [Errno 13] Permission denied: '/engine/config.json'"], 1, "permission"),
        (["RuntimeError: The NVIDIA driver: CUDA driver version is insufficient"], 1, "driver"),
        (LOG[:4], -9, "host-memory"),
        (LOG[:4], 137, "host-memory"),
        (["ValueError: something new"], 1, "trtllm-build"),
        ([], 1, "trtllm-build"),
    ],
)
def test_a_failure_gives_the_builders_last_error_and_the_likely_cause(
    lines: list[str], exit_code: int, code: str
) -> None:
    log = BuildLog(1)
    for line in lines:
        log.feed(line)
    failure = log.failure(exit_code)
    assert isinstance(failure, StageFailed)
    assert failure.code == code
    assert failure.hint
    if lines and lines is not LOG:
        assert lines[-1].rsplit("] ", 1)[-1] in failure.message


def test_the_last_error_wins_over_what_came_before_and_after_it() -> None:
    log = BuildLog(1)
    for line in (
        "[11/24/2026-10:00:00] [TRT] [W] Tactic Device request: 157500MB Available: 40339MB.",
        "ValueError: max_workers must be greater than 0",
        "AttributeError: 'QWenConfig' object has no attribute 'qwen_type'",
        "    sys.exit(main())",
    ):
        log.feed(line)
    assert log.last_error == "AttributeError: 'QWenConfig' object has no attribute 'qwen_type'"
    assert log.failure(1).code == "config-key-missing"
    assert likely_cause([], ["all is well"], 1) is None


@given(st.lists(st.text()))
def test_any_output_is_read_without_failing(lines: list[str]) -> None:
    log = BuildLog(3)
    for line in lines:
        log.feed(line)
    assert 0.0 <= log.fraction <= 1.0
    assert log.failure(1).message
