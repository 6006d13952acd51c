"""Files that are whole or absent: written beside, flushed to the disk, moved into place by one rename."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

__all__ = [
    "exchange",
    "flush_folder",
    "flush_tree",
    "json_bytes",
    "link_or_copy",
    "move_into_place",
    "remove_tree",
]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def json_bytes(value: Any) -> bytes:
    """JSON as this project writes files: sorted, indented, ASCII, one newline at the end."""
    return (json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n").encode("ascii")


def flush_tree(root: Path) -> None:
    """fsync every file and folder below `root`, and `root` itself."""
    for folder, _, files in os.walk(root):
        for name in files:
            _flush(Path(folder, name))
        flush_folder(Path(folder))


def flush_folder(folder: Path) -> None:
    """fsync a folder, so that a rename in it outlives a power cut."""
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_into_place(source: Path, target: Path) -> None:
    """Rename `source`, already flushed, to `target`, which does not exist or is a file."""
    source.replace(target)
    flush_folder(target.parent)


def exchange(first: Path, second: Path) -> bool:
    """Swap two existing paths in one step; False, and nothing done, where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(second))


def link_or_copy(source: Path, target: Path) -> None:
    """Hard link `source` at `target`; copy it where links cannot be made (another disk, too many links)."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES):
            raise
        shutil.copyfile(source, target)


def remove_tree(path: Path) -> None:
    """Remove a folder or file and all below; nothing there is fine."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.exists():
        shutil.rmtree(path)
