"""The end of a build: repository and manifest into the output folder, or the rejected engine beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import GateFailed

from enginewright.cache import Cache, Entry
from enginewright.durable import json_bytes
from enginewright.output import MANIFEST, REPORT, OutputFolder, link_tree
from enginewright.verify_repository import repository_files

__all__ = ["Published", "keep_rejected", "publish"]


@dataclass(frozen=True, slots=True)
class Published:
    """changed: False if the folder already was what this build makes, byte for byte."""

    folder: Path
    manifest_sha256: str
    changed: bool


def publish(
    output: OutputFolder,
    repository: Entry,
    manifest: Mapping[str, Any],
    report: Mapping[str, Any],
    cache: Cache,
) -> Published:
    """Put `repository` with its manifest and report at `output`, unless they are there already."""
    content = json_bytes(manifest)
    changed = not _is_current(output.path, content, repository, cache)
    if changed:

        def fill(folder: Path) -> None:
            link_tree(repository.folder, folder)
            (folder / MANIFEST).write_bytes(content)
            (folder / REPORT).write_bytes(json_bytes(report))

        output.publish(fill)
    return Published(output.path, hashlib.sha256(content).hexdigest(), changed)


def keep_rejected(
    output: Path, artifact: Entry, manifest: Mapping[str, Any], report: Mapping[str, Any], error: GateFailed
) -> Path:
    """The engine or checkpoint that did not pass, beside where it would have gone: for a look, not for
    serving."""
    path = output.with_name(f"{output.name}.rejected")

    def fill(folder: Path) -> None:
        name = "checkpoint" if artifact.request.stage == "quantize" else "engine"
        (folder / name).mkdir()
        link_tree(artifact.folder, folder / name)
        (folder / MANIFEST).write_bytes(json_bytes(manifest))
        reason = {"code": error.code, "message": error.message, "hint": error.hint}
        (folder / REPORT).write_bytes(json_bytes({**report, "rejected": reason}))

    with OutputFolder(path) as rejected:
        rejected.publish(fill)
    return path


def _is_current(folder: Path, manifest: bytes, repository: Entry, cache: Cache) -> bool:
    try:
        if (folder / MANIFEST).read_bytes() != manifest:
            return False
        names = {name for name in repository_files(folder) if not _by_script(name, repository)}
        return names == set(repository.files) and cache.hasher.files(folder, names) == repository.files
    except OSError:
        return False


def _by_script(name: str, repository: Entry) -> bool:
    """What the build script of a handed-off folder wrote there is kept: engines take minutes."""
    return repository.request.stage == "handoff" and name.startswith("engine-")
