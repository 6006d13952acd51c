"""Sizes and times: what a person writes is read right, and what is shown is short and true."""

from __future__ import annotations

import pytest
from enginewright.units import format_bytes, format_seconds, parse_bytes
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 * 2**30),
        ("1.5 GB", 1_500_000_000),
        ("512mib", 512 * 2**20),
        ("7", 7),
        ("7B", 7),
        ("1 TiB", 2**40),
    ],
)
def test_sizes_are_read_as_written(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "1GiBB", "1e9", "1,5GB", "0x10", "1" * 40, "٣GiB2"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(text)


@given(st.integers(0, 2**50))
def test_a_shown_size_is_within_half_a_percent(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.006, abs=1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.26, "0.3 s"),
        (9.99, "10.0 s"),
        (42, "42 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (3599.7, "1 h 0 min"),
    ],
)
def test_times_are_short(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
