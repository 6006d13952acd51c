"""Which TensorRT-LLM this target is made for, and why no other.

The contract (checkpoint keys, build flags, backend parameters) was read from 1.1 and 1.2; 1.2.1 is the last
stable release with `trtllm-build` and the C++ Triton backend. An engine loads only in the TensorRT-LLM and
TensorRT that built it, so one container builds and serves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from enginewright_errors import UsageError

__all__ = [
    "CONTAINERS",
    "PINNED_CONTAINER",
    "PINNED_TENSORRT_LLM",
    "Release",
    "check_tensorrt_llm",
    "container_image",
    "reason_to_refuse",
    "release_of_container",
]

PINNED_TENSORRT_LLM = "1.2.1"
PINNED_CONTAINER = "26.07"


@dataclass(frozen=True, slots=True)
class Release:
    """What a monthly container holds; None where NVIDIA's support matrix was not read."""

    tensorrt_llm: str
    tensorrt: str | None
    cuda: str | None


_LAST = Release(PINNED_TENSORRT_LLM, "10.14.1.48", "13.1")

# nvcr.io/nvidia/tritonserver:YY.MM-trtllm-python-py3 by month.
CONTAINERS: Mapping[str, Release] = {
    "25.09": Release("1.0.0", None, None),
    "25.10": Release("1.0.0", None, None),
    "25.11": Release("1.0.3", None, None),
    "25.12": Release("1.1.0", "10.13.3.9", None),
    "26.01": Release("1.1.0", "10.13.3.9", None),
    "26.02": Release("1.1.0", "10.13.3.9", None),
    "26.03": Release("1.2.0", None, None),
    "26.04": _LAST,
    "26.05": _LAST,
    "26.06": _LAST,
    "26.07": _LAST,
}


def container_image(tag: str = PINNED_CONTAINER) -> str:
    """The image of a month, e.g. "26.07"."""
    return f"nvcr.io/nvidia/tritonserver:{tag}-trtllm-python-py3"


def release_of_container(tag: str) -> Release | None:
    """What the container of a month holds, None for a month that was never looked at."""
    return CONTAINERS.get(tag)


def reason_to_refuse(version: str) -> str | None:
    """Why this target is not built or served with a TensorRT-LLM version; None for the pinned one.

    version: as `tensorrt_llm.__version__` says it, with or without a suffix such as rc20 or +cu13.
    """
    if version == PINNED_TENSORRT_LLM:
        return None
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if match is None:
        return "it is not a version number"
    major, minor = int(match[1]), int(match[2])
    if (major, minor) >= (1, 3):
        return (
            "the TensorRT engine path is gone: trtllm-build and the C++ Triton backend were removed in July"
            " 2026, 1.3.0rc20 was the last release candidate that had them"
        )
    if (major, minor) < (1, 0):
        return (
            "its trtllm-build has other flags (--max_output_len, --use_custom_all_reduce), its backend other"
            " parameters"
        )
    if (major, minor) < (1, 1):
        return "its build flags and backend parameters were not compared with what is written here"
    return (
        f"it has the engine path, but an engine built by {PINNED_TENSORRT_LLM} does not load in it, nor the"
        " other way round"
    )


def check_tensorrt_llm(version: str) -> None:
    """Raise UsageError for a TensorRT-LLM other than the pinned one, with the reason and the container."""
    reason = reason_to_refuse(version)
    if reason is not None:
        raise UsageError(
            f"TensorRT-LLM {version} cannot be used: {reason}",
            code="trtllm-version",
            hint=f"Build and serve in {container_image()}, which holds {PINNED_TENSORRT_LLM}.",
        )
