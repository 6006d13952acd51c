"""Only the pinned TensorRT-LLM is used, and every other is refused with its own reason."""

from __future__ import annotations

import pytest
from enginewright_errors import UsageError
from enginewright_trtllm.versions import (
    CONTAINERS,
    PINNED_CONTAINER,
    PINNED_TENSORRT_LLM,
    check_tensorrt_llm,
    container_image,
    reason_to_refuse,
    release_of_container,
)


def test_the_pinned_version_passes_and_its_container_holds_it() -> None:
    check_tensorrt_llm("1.2.1")
    assert PINNED_TENSORRT_LLM == "1.2.1"
    release = release_of_container(PINNED_CONTAINER)
    assert release is not None
    assert (release.tensorrt_llm, release.tensorrt, release.cuda) == ("1.2.1", "10.14.1.48", "13.1")
    assert container_image() == "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("1.3.0", "removed in July 2026"),
        ("1.3.0rc20", "removed in July 2026"),
        ("2.0.0", "removed in July 2026"),
        ("1.2.0", "does not load"),
        ("1.2.1rc1", "does not load"),
        ("1.1.0", "does not load"),
        ("1.0.3", "not compared"),
        ("0.21.0", "other flags"),
        ("newest", "not a version number"),
        ("", "not a version number"),
    ],
)
def test_others_are_refused_with_the_reason_and_the_container(version: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        check_tensorrt_llm(version)
    assert caught.value.code == "trtllm-version"
    assert container_image() in caught.value.hint


def test_every_month_is_known_by_what_it_holds() -> None:
    assert [tag for tag, release in CONTAINERS.items() if release.tensorrt_llm == "1.2.1"] == [
        "26.04",
        "26.05",
        "26.06",
        "26.07",
    ]
    assert release_of_container("26.02") == CONTAINERS["26.02"]
    assert CONTAINERS["25.12"].tensorrt == "10.13.3.9"
    assert release_of_container("26.08") is None
    assert reason_to_refuse("1.2.1") is None
