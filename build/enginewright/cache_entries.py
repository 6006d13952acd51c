"""What lies in a cache: its entries, which models they are for, and what is not the cache's own."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from enginewright.hashing import FileHash, digest, tree_digest

__all__ = ["CacheListing", "CachedEntry", "CachedFile", "disk_bytes", "freed_bytes", "list_entries"]

_KEY = re.compile("[0-9a-f]{64}")
_OWN = ("tmp", "locks")  # of builds that run
_DAMAGED = "damaged"  # entries that a build has set aside


@dataclass(frozen=True, slots=True)
class CachedFile:
    """One name of a file. links: how many names the file has, here and in the repositories made of it."""

    inode: tuple[int, int]  # device and number
    bytes: int
    links: int


@dataclass(frozen=True, slots=True)
class CachedEntry:
    """One result of a stage.

    models: of the finished builds that it belongs to. used: when a build last made or reused it, seconds of
    the epoch. damaged: what is wrong with it, "" if nothing.
    """

    stage: str
    key: str
    folder: Path
    used: float
    files: tuple[CachedFile, ...]
    models: tuple[str, ...] = ()
    damaged: str = ""

    @property
    def bytes(self) -> int:
        return disk_bytes([self])


@dataclass(frozen=True, slots=True)
class CacheListing:
    """entries: the one used last comes first. foreign: what else lies there; it is never touched."""

    entries: tuple[CachedEntry, ...]
    foreign: tuple[Path, ...]


def list_entries(root: Path) -> CacheListing:
    """What is in the cache at `root`, by its records: names and sizes are compared, contents are not read."""
    found: list[tuple[CachedEntry, Mapping[str, Any]]] = []
    foreign = []
    for place in _children(root):
        if place.name in _OWN:
            continue
        stages = _children(place) if place.name == _DAMAGED else [place]
        for stage in stages:
            inside = _children(stage)
            keys = [path for path in inside if _KEY.fullmatch(path.name) and _is_folder(path)]
            foreign += [path for path in inside if path not in keys] if keys or _is_empty(stage) else [stage]
            found += [_read(stage.name, path, aside=place.name == _DAMAGED) for path in keys]
    models = _models(found)
    entries = [replace(entry, models=tuple(sorted(models.get(entry.folder, ())))) for entry, _ in found]
    return CacheListing(tuple(sorted(entries, key=lambda entry: -entry.used)), tuple(foreign))


def disk_bytes(entries: Iterable[CachedEntry]) -> int:
    """Bytes on the disk: files that several entries share by hard links count once."""
    return sum({file.inode: file.bytes for entry in entries for file in entry.files}.values())


def freed_bytes(entries: Iterable[CachedEntry]) -> int:
    """Bytes that the disk gets back with `entries`: files that have no other name."""
    files = [file for entry in entries for file in entry.files]
    names = Counter(file.inode for file in files)
    gone = {file.inode: file.bytes for file in files if names[file.inode] >= file.links}
    return sum(gone.values())


def _read(stage: str, folder: Path, *, aside: bool) -> tuple[CachedEntry, Mapping[str, Any]]:
    """The entry, and the body of its record, empty if that cannot be read."""
    files = tuple(
        CachedFile((stat.st_dev, stat.st_ino), stat.st_size, stat.st_nlink) for _, stat in _files(folder)
    )
    entry = CachedEntry(stage, folder.name, folder, _modified(folder), files)
    try:
        document = json.loads((folder / "entry.json").read_bytes())
        body: Mapping[str, Any] = document["body"]
        recorded = {name: item["bytes"] for name, item in body["files"].items()}
        if digest(body) != document["sha256"] or digest(body["request"]) != folder.name:
            raise ValueError("entry.json was changed")
        used = (folder / "entry.json").stat().st_mtime
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return replace(entry, damaged=f"{type(error).__name__}: {error}".partition("\n")[0]), {}
    root = folder / "files"
    there = {path.relative_to(root).as_posix(): stat.st_size for path, stat in _files(root)}
    wrong = "set aside by a build" if aside else "" if there == recorded else "files are missing or changed"
    return replace(entry, used=used, damaged=wrong), body


def _models(found: Iterable[tuple[CachedEntry, Mapping[str, Any]]]) -> dict[Path, set[str]]:
    """Folder -> names: a package says its model's, and its inputs lead to what it was made of."""
    by_input: dict[str, list[tuple[Path, Mapping[str, Any]]]] = {}
    names: dict[Path, set[str]] = {}
    waiting: list[tuple[Path, Mapping[str, Any], str]] = []
    for entry, body in found:
        if not body or entry.damaged:
            continue
        files = {name: FileHash(**item) for name, item in body["files"].items()}
        for known_by in (entry.key, tree_digest(files)):
            by_input.setdefault(known_by, []).append((entry.folder, body))
        name = body["request"]["parameters"].get("name")
        if entry.stage == "package" and isinstance(name, str):
            waiting.append((entry.folder, body, name))
    while waiting:
        folder, body, name = waiting.pop()
        if name not in names.setdefault(folder, set()):
            names[folder].add(name)
            for value in body["request"]["inputs"].values():
                waiting += [(*made_of, name) for made_of in by_input.get(value, ())]
    return names


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # a build may have replaced it meanwhile
                path = Path(place, name)
                yield path, path.lstat()


def _children(folder: Path) -> list[Path]:
    if not _is_folder(folder):
        return []
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_folder(path: Path) -> bool:
    """Not through a link: it may lead to anything."""
    return path.is_dir() and not path.is_symlink()


def _is_empty(folder: Path) -> bool:
    return _is_folder(folder) and not _children(folder)


def _modified(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
