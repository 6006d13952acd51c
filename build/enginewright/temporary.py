"""Folders that are gone when their work ends, however it ends short of a kill.

The names are fixed and their users hold a lock, so the next process finds and removes what a killed one left.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from enginewright.durable import remove_tree

__all__ = ["remove_temporary_folders", "temporary_folder"]

_in_use: set[Path] = set()


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """An empty folder at `path`, removed at the end if it is still there. Leftovers are removed first."""
    remove_tree(path)
    path.mkdir(parents=True)
    _in_use.add(path)
    try:
        yield path
    finally:
        remove_tree(path)
        _in_use.discard(path)


def remove_temporary_folders() -> None:
    """Remove those in use by this process: for a signal that cannot wait for the work to notice it."""
    for path in tuple(_in_use):
        shutil.rmtree(path, ignore_errors=True)
