"""The flags of trtllm-build: ours are sound, and one that means something else is found."""

from __future__ import annotations

import pytest
from enginewright_trtllm.build_command import build_command
from enginewright_trtllm.check_build_flags import check_build_flags
from trtllm_targets import FP8, NATIVE, TARGETS

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
