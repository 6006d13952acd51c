"""The folder that a benchmark writes: new or empty when it begins, and errors of the disk as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from enginewright_errors import StageFailed, UsageError

__all__ = ["open_results_folder", "writing_results"]


def open_results_folder(folder: Path) -> None:
    """Make `folder`. Raises UsageError where something is in it, or where none can be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be a folder of results: {error.strerror}",
            code="output-not-writable",
            hint="give another --out",
        ) from error
    if occupied:
        raise UsageError(f"{folder} is not empty", code="output-not-empty", hint="give another --out")


@contextmanager
def writing_results(folder: Path) -> Iterator[None]:
    """Raises StageFailed when what is written within finds the disk full, or the folder gone or protected."""
    try:
        yield
    except OSError as error:
        raise StageFailed(
            f"{error.filename or folder} cannot be written: {error.strerror}",
            code="output-not-writable",
            hint=f"make room; the loads before it are in {folder}",
        ) from error
