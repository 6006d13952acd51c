"""Sizes and times as people write and read them."""

from __future__ import annotations

import re

__all__ = ["format_bytes", "format_seconds", "parse_bytes"]

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{letter}iB": 1024 ** (power + 1) for power, letter in enumerate("KMGT")}
_UNITS |= {f"{letter}B": 1000 ** (power + 1) for power, letter in enumerate("KMGT")}
_PATTERN = re.compile(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]{0,3})\s*")


def parse_bytes(text: str) -> int:
    """Bytes of "2GiB", "500 MB" or "1048576". Raises ValueError with what would be right."""
    match = _PATTERN.fullmatch(text)
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    if match is None or match[2].lower() not in units:
        raise ValueError(f"{text!r} is not a size; write it like 2GiB, 512MiB or 4GB")
    return int(float(match[1]) * units[match[2].lower()])


def format_bytes(size: float) -> str:
    """Three digits in binary units: 1536 -> "1.5 KiB"."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(size) >= 1000 and len(units) > 1:
        size /= 1024
        del units[0]
    decimals = 0 if units[0] == "B" or abs(size) >= 100 else 1 if abs(size) >= 10 else 2
    number = f"{size:.{decimals}f}"
    return f"{number.rstrip('0').rstrip('.') if decimals else number} {units[0]}"


def format_seconds(seconds: float) -> str:
    """ "0.3 s", "42 s", "3 min 20 s", "2 h 5 min" or "3 d 4 h"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
