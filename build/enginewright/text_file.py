"""Write a file that the user named."""

from __future__ import annotations

from pathlib import Path

from enginewright_errors import UsageError

__all__ = ["write_text_file"]


def write_text_file(path: Path, text: str) -> None:
    """Write `text` as UTF-8; a file that is there is replaced. Raises UsageError where that cannot be."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}",
            code="output-not-writable",
            hint="name a file in a folder that exists and is yours",
        ) from None
