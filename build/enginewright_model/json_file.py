"""Read a JSON object from a file of a checkpoint: bounded, and with an error that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from enginewright_errors import CheckpointError

__all__ = ["read_json_object"]


def read_json_object(path: Path, *, limit: int = 4 << 20) -> dict[str, Any]:
    """The object in `path`, which may have at most `limit` bytes.

    Raises:
        CheckpointError: `json-invalid` when it is unreadable, too large, not UTF-8 or no JSON object.
    """
    try:
        size = path.stat().st_size
        if size > limit:
            raise _invalid(path, f"has {size} bytes, more than the {limit} that such a file may have")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _invalid(path, f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _invalid(path, f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise _invalid(path, "is not a JSON object")
    return value


def _invalid(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name} {problem}", code="json-invalid", hint=f"download {path} again, or correct it"
    )
