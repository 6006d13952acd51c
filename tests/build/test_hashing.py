"""Hashes: equal for equal content, different for any other, and independent of order, place and time."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from enginewright.hashing import Hasher, canonical_json, digest, tree_digest
from hypothesis import given
from hypothesis import strategies as st


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none() | st.booleans(), max_size=6))
def test_the_order_of_keys_does_not_matter(data: dict[str, object]) -> None:
    assert digest(data) == digest(dict(reversed(list(data.items()))))
    assert digest(data) != digest({**data, "another key": 1})
    assert canonical_json(data).isascii()


def test_what_json_lacks_is_refused() -> None:
    for value in (float("nan"), float("inf"), {1, 2}, b"x"):
        with pytest.raises((ValueError, TypeError)):
            canonical_json(value)


def test_a_tree_is_its_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "one" / "deep").mkdir(parents=True)
    (tmp_path / "one" / "a").write_bytes(b"a" * 5_000_000)
    (tmp_path / "one" / "deep" / "b").write_bytes(b"b")
    first = Hasher().tree(tmp_path / "one")
    assert first["a"].sha256 == hashlib.sha256(b"a" * 5_000_000).hexdigest()
    assert (first["a"].bytes, sorted(first)) == (5_000_000, ["a", "deep/b"])
    (tmp_path / "one").rename(tmp_path / "two")
    os.utime(tmp_path / "two" / "a", (1, 1))
    assert tree_digest(Hasher().tree(tmp_path / "two")) == tree_digest(first)
    (tmp_path / "two" / "deep" / "b").rename(tmp_path / "two" / "deep" / "c")
    assert tree_digest(Hasher().tree(tmp_path / "two")) != tree_digest(first)


def test_progress_counts_every_byte_and_links_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 9_000_000)
    os.link(tmp_path / "a", tmp_path / "b")
    seen: list[tuple[int, int]] = []
    hasher = Hasher()
    hashes = hasher.tree(tmp_path, lambda done, total: seen.append((done, total)))
    assert hashes["a"] == hashes["b"]
    assert seen[-1] == (18_000_000, 18_000_000)


def test_links_and_devices_are_no_artifacts(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(ValueError, match="link is neither"):
        Hasher().tree(tmp_path)
    (tmp_path / "link").unlink()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is neither"):
        Hasher().tree(tmp_path)
