"""Of a log of docker, mpirun and TensorRT-LLM, the one line that says why."""

from __future__ import annotations

import pytest
from enginewright_serve.launcher_failure import launcher_failure

LOGS = {
    "no toolkit": (
        'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].\n'
        "\nRun 'docker run --help' for more information\n",
        'could not select device driver "" with capabilities: [[gpu]]',
    ),
    "other card": (
        "[TensorRT-LLM][INFO] Engine version 1.2.1 found in the config file\n"
        "[TensorRT-LLM][ERROR] 6: The engine plan file is generated on an incompatible device, "
        "expecting compute 9.0 got compute 8.9, please rebuild.\n"
        "E1124 10:00:00.000000 1 model.cc:1] failed to load 'tensorrt_llm' version 1: Internal: unexpected\n",
        "The engine plan file is generated on an incompatible device, expecting compute 9.0 got compute 8.9,"
        " please rebuild",
    ),
    "too few slots": (
        "-----\nThere are not enough slots available in the system to satisfy the 4\nslots that were\n",
        "There are not enough slots available in the system to satisfy the 4",
    ),
    "assertion": (
        "[TensorRT-LLM][ERROR] Assertion failed: mpiSize == tp * pp (/src/worldConfig.cpp:99)\n",
        "Assertion failed: mpiSize == tp * pp (/src/worldConfig.cpp:99)",
    ),
    "Triton's own": ("E1124 10:00:00.000000 1 main.cc:1] something\nto docker: no\n", ""),
    "nothing": ("", ""),
}


@pytest.mark.parametrize("name", LOGS)
def test_the_reason_is_found(name: str) -> None:
    log, reason = LOGS[name]
    assert launcher_failure(log.encode()) == reason


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert launcher_failure(b"\xff\xfe\ndocker: no such \xff runtime.\n") == "no such � runtime"
