"""Figures as people read them."""

from __future__ import annotations

__all__ = ["duration", "gigabytes"]


def gigabytes(size: int) -> str:
    """Decimal gigabytes with three significant digits, as data sheets count."""
    value = size / 1e9
    return f"{value:.0f} GB" if abs(value) >= 100 else f"{value:.3g} GB"


def duration(seconds: float) -> str:
    """Seconds below two minutes, then minutes, then hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
