"""Is a folder a packaged model repository, and is it whole? Looked at before a server is started."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginewright_errors import UsageError

__all__ = ["MODEL", "check_repository"]

MODEL = "llm"
_MANIFEST = "manifest.json"


def check_repository(folder: Path) -> None:
    """Compare the names and sizes of the files in `folder` with its manifest; hashes are `verify`'s.

    Raises UsageError that names the file that is missing or cut short, and how to make it again.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", code="no-repository", hint=_BUILD)
    manifest = _manifest(folder)
    try:
        files: Mapping[str, Any] = manifest["chain"]["package"]["files"]
        sizes = {name: int(item["bytes"]) for name, item in files.items()}
        recipe = str(manifest["name"])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise _unreadable(folder, "is not the manifest of a build") from None
    rebuild = f"build it again: build-engine {recipe} --output {folder}"
    for name in sorted({f"{MODEL}/config.pbtxt", f"{MODEL}/1/model.py", *sizes}):
        file = folder / name
        if not file.is_file():
            raise UsageError(f"{file} is missing", code="incomplete-repository", hint=rebuild)
        size = file.stat().st_size
        if size != sizes.get(name, size):
            raise UsageError(
                f"{file} has {size} bytes, not {sizes[name]}", code="incomplete-repository", hint=rebuild
            )


_BUILD = "give the output folder of a build; `build-engine RECIPE` makes one"


def _manifest(folder: Path) -> Any:
    try:
        return json.loads((folder / _MANIFEST).read_bytes())
    except OSError as error:
        raise _unreadable(folder, f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise _unreadable(folder, "is not JSON") from None


def _unreadable(folder: Path, problem: str) -> UsageError:
    return UsageError(f"{folder / _MANIFEST} {problem}", code="no-repository", hint=_BUILD)
