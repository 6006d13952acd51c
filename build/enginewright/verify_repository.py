"""Recompute the hash chain of a build's folder, from its files back to the checkpoint it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import GateFailed, UsageError

from enginewright.chain_links import broken_links, last_link, placed_files
from enginewright.hashing import Hasher, hashes_as_json
from enginewright.manifest import FORMAT
from enginewright.output import MANIFEST, REPORT

__all__ = ["VerifiedRepository", "repository_files", "verify_repository"]

_COMPILED = "__pycache__"  # Python writes it when a server runs the repository; it follows from the sources


@dataclass(frozen=True, slots=True)
class VerifiedRepository:
    """What was checked. manifest_sha256 names the build: compare it with what the build printed."""

    name: str
    manifest_sha256: str
    files: int
    bytes: int


def verify_repository(folder: Path, progress: Callable[[int, int], None] | None = None) -> VerifiedRepository:
    """Check that every file of `folder` and every link of its manifest is what the manifest says.

    Raises GateFailed that names the first file or link that differs, UsageError for what is no repository.
    """
    content, manifest = _read_manifest(folder)
    try:
        chain = manifest["chain"]
        for problem in broken_links(chain):
            raise _differs(f"{MANIFEST}: {problem}")
        recorded: Mapping[str, Any] = last_link(chain)["files"]
        for stage, name, item in placed_files(chain):
            if recorded.get(name) != item:
                raise _differs(f"{MANIFEST}: {name} is not what {stage} made")
    except (KeyError, TypeError, AttributeError):
        raise _differs(f"{MANIFEST}: the chain is incomplete") from None
    present = repository_files(folder)
    for name in sorted({*recorded, *present}):
        if name not in present:
            raise _differs(f"{name} is missing")
        if name not in recorded:
            raise _differs(f"{name} does not belong to this build")
    try:
        found = hashes_as_json(Hasher().files(folder, recorded, progress))
    except OSError as error:
        raise _differs(f"{error.filename} cannot be read: {error.strerror}") from None
    for name in sorted(recorded):
        if found[name] != recorded[name]:
            raise _differs(f"{name} differs from the manifest")
    total = sum(item["bytes"] for item in found.values())
    return VerifiedRepository(manifest["name"], hashlib.sha256(content).hexdigest(), len(found), total)


def _read_manifest(folder: Path) -> tuple[bytes, dict[str, Any]]:
    try:
        content = (folder / MANIFEST).read_bytes()
        manifest = json.loads(content)
    except OSError as error:
        raise UsageError(
            f"{folder / MANIFEST} cannot be read: {error.strerror}",
            code="no-repository",
            hint="give the output folder of a build",
        ) from None
    except ValueError:
        raise _differs(f"{MANIFEST} is not JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UsageError(
            f"{folder / MANIFEST} is not a manifest of format {FORMAT}",
            code="manifest-format",
            hint="build it again with this version, or check it with the version that built it",
        )
    return content, manifest


def repository_files(folder: Path) -> set[str]:
    """Names of the files of a repository: all but manifest, report and what Python compiled."""
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = {path.relative_to(folder).as_posix() for path in files if _COMPILED not in path.parts}
    return names - {MANIFEST, REPORT}


def _differs(what: str) -> GateFailed:
    return GateFailed(
        f"the repository is not what was built: {what}",
        code="repository-differs",
        hint="build it again: whatever the cache still has whole is reused",
    )
