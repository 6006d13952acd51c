"""Results of stages by what they were made from: verified in full on every use, safe to kill at any instant.

    ROOT/STAGE/KEY/entry.json     what the stage was given, the hash of every file, a hash of all that;
                                  its mtime is when a build last used it
    ROOT/STAGE/KEY/files/         what the stage wrote
    ROOT/tmp/STAGE-KEY/           the same while it is being built; worthless unless its lock is held
    ROOT/damaged/STAGE-KEY/       an entry that no longer matched its hashes
    ROOT/locks/STAGE-KEY          held to build an entry, shared while it is in use

An entry appears by one rename of a finished and flushed folder, so a name that exists is complete.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from enginewright_errors import StageFailed, UsageError

from enginewright.durable import flush_folder, flush_tree, json_bytes, move_into_place, remove_tree
from enginewright.file_lock import FileLock
from enginewright.hashing import FileHash, Hasher, digest, hashes_as_json, tree_digest
from enginewright.temporary import temporary_folder

__all__ = ["Cache", "Entry", "Made", "StageRequest", "default_cache_folder"]


@dataclass(frozen=True, slots=True)
class StageRequest:
    """All that decides what a stage makes. Values are plain JSON; nothing here depends on paths or time."""

    stage: str
    inputs: Mapping[str, str]  # name -> digest of what is read
    parameters: Mapping[str, Any]
    versions: Mapping[str, str]  # code and libraries that compute
    machine: str = field(default_factory=platform.machine)

    def as_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "inputs": dict(self.inputs),
            "parameters": dict(self.parameters),
            "versions": dict(self.versions),
            "machine": self.machine,
        }

    @property
    def key(self) -> str:
        return digest(self.as_json())


@dataclass(frozen=True, slots=True)
class Entry:
    """A verified result. `facts` are what the stage found out (deterministic), `report` how it went (not)."""

    request: StageRequest
    folder: Path
    files: Mapping[str, FileHash]
    facts: Mapping[str, Any]
    report: Mapping[str, Any]
    reused: bool

    @property
    def digest(self) -> str:
        return tree_digest(self.files)


@dataclass(frozen=True, slots=True)
class Made:
    """What a stage returns beside its files; see `Entry`."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


Make = Callable[[Path], Made]


_CACHE_HINT = "set ENGINEWRIGHT_CACHE to a folder on a disk with room"


def default_cache_folder() -> Path:
    """`$ENGINEWRIGHT_CACHE`, or `~/.cache/enginewright`. Raises UsageError where the home is unknown."""
    named = os.environ.get("ENGINEWRIGHT_CACHE") or "~/.cache/enginewright"
    try:
        return Path(named).expanduser().absolute()
    except RuntimeError:
        raise UsageError(
            f"the cache folder {named}: there is no such user", code="cache-not-writable", hint=_CACHE_HINT
        ) from None


class Cache:
    """Entries stay locked against replacement from the moment they are obtained until `close`."""

    def __init__(self, root: Path, *, warn: Callable[[str], None], hasher: Hasher | None = None) -> None:
        self.root = root
        self.hasher = hasher or Hasher()
        self._warn = warn
        self._held = ExitStack()
        try:
            (root / "tmp").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the cache folder {root} cannot be written: {error.strerror}",
                code="cache-not-writable",
                hint=_CACHE_HINT,
            ) from None
        self._sweep()

    def obtain(
        self, request: StageRequest, make: Make, progress: Callable[[int, int], None] | None = None
    ) -> Entry:
        """The entry for `request`: the one that is there if every byte of it is as recorded, else a new one.

        `make(folder)` fills an empty folder. `progress` follows the verification.
        """
        key, stage = request.key, request.stage
        place = self.root / stage / key
        lock = FileLock(self.root / "locks" / f"{stage}-{key}")
        with ExitStack() as attempt:
            attempt.callback(lock.release)
            self._take(lock, stage, exclusive=False)
            found = self._read(request, place, progress)
            if not isinstance(found, Entry):
                lock.release()
                self._take(lock, stage, exclusive=True)
                found = self._read(request, place, progress)
            if not isinstance(found, Entry):
                if found:
                    self._warn(f"the cached {stage} {key[:12]} is damaged ({found}); building it again")
                found = self._build(request, place, make)
            lock.share()
            self._held.push(attempt.pop_all())
        with suppress(OSError):  # a cache that may only be read
            os.utime(place / "entry.json")  # when it was last used: what `prune_cache` goes by
        return found

    def peek(self, request: StageRequest) -> str | None:
        """The digest that the entry for `request` claims to have, unverified; None without an entry."""
        try:
            body = json.loads((self.root / request.stage / request.key / "entry.json").read_bytes())["body"]
            return tree_digest({name: FileHash(**item) for name, item in body["files"].items()})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def requests(self, stage: str) -> Iterator[StageRequest]:
        """What the entries of `stage` claim to answer, unverified, in the order of their keys."""
        for file in sorted((self.root / stage).glob("*/entry.json")):
            with suppress(OSError, ValueError, TypeError, KeyError):
                yield StageRequest(**json.loads(file.read_bytes())["body"]["request"])

    def close(self) -> None:
        self._held.close()

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, lock: FileLock, stage: str, *, exclusive: bool) -> None:
        if not lock.acquire(exclusive=exclusive, wait=False):
            self._warn(f"{lock.owner()} is busy with the same {stage}; waiting for it")
            lock.acquire(exclusive=exclusive)

    def _build(self, request: StageRequest, place: Path, make: Make) -> Entry:
        with temporary_folder(self.root / "tmp" / f"{request.stage}-{request.key}") as beside:
            files_folder = beside / "files"
            files_folder.mkdir()
            made = make(files_folder)
            try:
                files = self.hasher.tree(files_folder)
            except ValueError as error:
                raise StageFailed(
                    f"{request.stage} wrote what it must not: {error}", code="stage-output"
                ) from None
            body = {
                "request": request.as_json(),
                "files": hashes_as_json(files),
                "facts": dict(made.facts),
                "report": dict(made.report),
            }
            for name in files:  # the files are shared by hard links: nobody writes into one by mistake
                (files_folder / name).chmod(0o444)
            (beside / "entry.json").write_bytes(json_bytes({"body": body, "sha256": digest(body)}))
            flush_tree(beside)
            self._set_aside(request, place)
            place.parent.mkdir(parents=True, exist_ok=True)
            flush_folder(self.root)
            move_into_place(beside, place)
        return Entry(request, place / "files", files, made.facts, made.report, reused=False)

    def _read(
        self, request: StageRequest, place: Path, progress: Callable[[int, int], None] | None
    ) -> Entry | str:
        """The entry at `place` if every byte is as recorded; else what is wrong, "" if there is none."""
        if not place.exists():
            return ""
        try:
            document = json.loads((place / "entry.json").read_bytes())
            body = document["body"]
            if digest(body) != document["sha256"] or body["request"] != request.as_json():
                return "entry.json differs"
            recorded = body["files"]
            found = hashes_as_json(self.hasher.tree(place / "files", progress))
        except (OSError, ValueError, TypeError, KeyError) as error:
            return f"{type(error).__name__}: {error}".partition("\n")[0]
        for name in sorted({*recorded, *found}):
            if recorded.get(name) != found.get(name):
                return f"{name} differs"
        files = {name: FileHash(**item) for name, item in recorded.items()}
        return Entry(request, place / "files", files, body["facts"], body["report"], reused=True)

    def _set_aside(self, request: StageRequest, place: Path) -> None:
        if place.exists():
            aside = self.root / "damaged" / place.parent.name / place.name
            remove_tree(aside)
            aside.parent.mkdir(parents=True, exist_ok=True)
            place.rename(aside)

    def _sweep(self) -> None:
        """Remove what builds that were killed left behind: an unfinished folder whose lock nobody holds."""
        for leftover in (self.root / "tmp").iterdir():
            lock = FileLock(self.root / "locks" / leftover.name)
            if lock.acquire(wait=False):
                remove_tree(leftover)
                lock.release()
