"""What the machine does to a stage becomes one line that says what happened and what to do."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from enginewright.failures import explained
from enginewright_errors import EnginewrightError, GateFailed, StageFailed, UsageError


def explain(error: Exception, cause: Exception | None = None) -> EnginewrightError:
    with pytest.raises(EnginewrightError) as caught, explained("compile", Path("/tmp/cache")):
        raise error from cause
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk(error: Exception) -> None:
    found = explain(error)
    assert found.code == "disk-full"
    assert "compile: the disk of /tmp/cache is full (" in found.message
    assert "ENGINEWRIGHT_CACHE" in found.hint
    assert explain(StageFailedByLibrary("export failed"), error).code == "disk-full"


class StageFailedByLibrary(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/tmp/cache/x"), "not-writable"),
        (OSError(errno.EROFS, "Read-only file system", "/tmp/cache/x"), "not-writable"),
        (MemoryError(), "out-of-memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 TB"),
            "out-of-memory",
        ),
    ],
)
def test_other_limits_of_the_machine(error: Exception, code: str) -> None:
    found = explain(error)
    assert isinstance(found, StageFailed)
    assert found.code == code
    if code == "not-writable":
        assert "/tmp/cache/x" in found.message


def test_a_missing_package() -> None:
    found = explain(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert isinstance(found, UsageError)
    assert "torch" in found.message
    assert "enginewright[cpu]" in found.hint


def test_our_own_errors_and_bugs_pass_unchanged() -> None:
    for error in (
        GateFailed("KL 1.0", code="gate"),
        ZeroDivisionError("a bug"),
        ModuleNotFoundError("x", name="enginewright.gone"),
    ):
        with pytest.raises(type(error)) as caught, explained("verify", Path("/tmp")):
            raise error
        assert caught.value is error
