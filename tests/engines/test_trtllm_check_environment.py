"""An engine against the machine that is to serve it."""

from __future__ import annotations

from typing import Any

import pytest
from enginewright_trtllm.check_environment import check_environment
from enginewright_trtllm.finding import Finding
from enginewright_trtllm.nvidia_smi import parse_nvidia_smi

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
