"""Content hashes: of a value as canonical JSON, of a file, of a tree of files."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "FileHash",
    "FileHashes",
    "Hasher",
    "canonical_json",
    "digest",
    "hashes_as_json",
    "subfolder",
    "tree_digest",
]

_BLOCK = 4 * 1024**2
_THREADS = 4  # SHA-256 releases the GIL; more threads than this wait for the disk


@dataclass(frozen=True, slots=True)
class FileHash:
    """SHA-256 in hex, and the size in bytes."""

    sha256: str
    bytes: int


Value = TypeVar("Value")

FileHashes = Mapping[str, FileHash]  # by POSIX path relative to the tree


def canonical_json(value: Any) -> str:
    """The one way to write `value`: sorted keys, no spaces, ASCII. ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def hashes_as_json(hashes: FileHashes) -> dict[str, dict[str, Any]]:
    return {name: {"sha256": item.sha256, "bytes": item.bytes} for name, item in sorted(hashes.items())}


def tree_digest(hashes: FileHashes) -> str:
    """One hash for a tree: names, sizes and contents of its files."""
    return digest(hashes_as_json(hashes))


def subfolder(files: Mapping[str, Value], folder: str) -> dict[str, Value]:
    """Those of a tree's `files` that lie in its top folder `folder`, by their names in it."""
    inside = f"{folder}/"
    return {name.removeprefix(inside): item for name, item in files.items() if name.startswith(inside)}


class Hasher:
    """Hashes files, each inode once in the life of this object: hard links of one artifact are read once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, int], FileHash] = {}

    def file(self, path: Path, advance: Callable[[int], None] = lambda _: None) -> FileHash:
        """Hash one file; `advance` gets the bytes of every block."""
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._known.get(identity)
            if known is not None:
                advance(known.bytes)
                return known
            state, size = hashlib.sha256(), 0
            while block := stream.read(_BLOCK):
                state.update(block)
                size += len(block)
                advance(len(block))
        result = FileHash(state.hexdigest(), size)
        self._known[identity] = result
        return result

    def files(
        self, root: Path, names: Iterable[str], progress: Callable[[int, int], None] | None = None
    ) -> dict[str, FileHash]:
        """Hash the named files below `root`. `progress` gets bytes done and bytes in all."""
        ordered = sorted(names)
        total = sum((root / name).stat().st_size for name in ordered)
        done, stopped, guard = 0, False, threading.Lock()

        def advance(count: int) -> None:
            nonlocal done
            with guard:
                done += count
                if stopped:
                    raise InterruptedError
                if progress is not None:
                    progress(done, total)

        with ThreadPoolExecutor(min(_THREADS, max(1, len(ordered)))) as pool:
            try:
                results = list(pool.map(lambda name: self.file(root / name, advance), ordered))
            except BaseException:
                stopped = True  # leaving the pool waits for its threads: a file can be tens of gigabytes
                raise
        return dict(zip(ordered, results, strict=True))

    def tree(self, root: Path, progress: Callable[[int, int], None] | None = None) -> dict[str, FileHash]:
        """Hash every file below `root`. A link or a device raises ValueError: artifacts hold neither."""
        return self.files(root, _names(root), progress)


def _names(root: Path) -> list[str]:
    names = []
    for folder, subfolders, files in os.walk(root, onerror=_raise):
        for name in (*subfolders, *files):
            path = Path(folder, name)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise ValueError(f"{path.relative_to(root)} is neither a file nor a folder")
        names += [Path(folder, name).relative_to(root).as_posix() for name in files]
    return names


def _raise(error: OSError) -> None:
    raise error
