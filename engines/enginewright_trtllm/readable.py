"""Can the user of a container read what is mounted there? Triton says no more than that a model failed."""

from __future__ import annotations

from pathlib import Path

__all__ = ["unreadable"]


def unreadable(folder: Path, user: str) -> Path | None:
    """The first file or folder of `folder` that `user` ("uid:gid") may not read, by its mode; or None."""
    uid, gid = map(int, user.split(":"))
    for path in (folder, *sorted(folder.rglob("*"))):
        status = path.stat()
        shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
        needed = 0o5 if path.is_dir() else 0o4
        if (status.st_mode >> shift) & needed != needed:
            return path
    return None
