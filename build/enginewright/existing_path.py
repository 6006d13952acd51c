"""A path as people write it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["existing_path"]


def existing_path(base: Path, text: str) -> Path | None:
    """`text` from `base`, with ~ and links followed; None where nothing is or no path can be.

    The latter: a name too long, a loop of links, the home of a user who does not exist.
    """
    try:
        path = (base / Path(text).expanduser()).resolve()
        return path if path.exists() else None
    except (OSError, RuntimeError):
        return None
