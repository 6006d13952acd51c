"""Splitting a tensor over ranks block by block loses nothing, puts nothing in the wrong place, and packs no
nibble apart."""

from __future__ import annotations

import numpy as np
from enginewright_trtllm.shard import Rule, cut
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

sizes = st.sampled_from([1, 2, 4, 8])
blocks = st.integers(1, 40)


def matrix(rows: int, columns: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)


def shards(whole: Bytes, rule: Rule, tp: int, block_rows: int, rows_each: int) -> list[Bytes]:
    """Every rank's part, collected as the writer does it: one pass over blocks of rows."""
    collected: list[list[Bytes]] = [[] for _ in range(tp)]
    for first in range(0, len(whole), block_rows):
        block = whole[first : first + block_rows]
        for rank in range(tp):
            collected[rank].append(cut(block, first, rule=rule, rows_each=rows_each, tp=tp, tp_rank=rank))
    return [np.concatenate(parts) for parts in collected]


@settings(deadline=None, max_examples=60)
@given(tp=sizes, each=st.integers(1, 9), columns=st.integers(1, 9), block_rows=blocks)
def test_rows_split_and_reassembled_are_the_whole(tp: int, each: int, columns: int, block_rows: int) -> None:
    whole = matrix(tp * each, columns)
    parts = shards(whole, Rule.ROWS, tp, block_rows, each)
    assert [len(part) for part in parts] == [each] * tp
    assert np.array_equal(np.concatenate(parts), whole)


@settings(deadline=None, max_examples=60)
@given(tp=sizes, rows=st.integers(1, 30), each=st.integers(1, 9), block_rows=blocks)
def test_columns_split_and_reassembled_are_the_whole(tp: int, rows: int, each: int, block_rows: int) -> None:
    whole = matrix(rows, tp * each)
    parts = shards(whole, Rule.COLUMNS, tp, block_rows, rows)
    assert [part.shape for part in parts] == [(rows, each)] * tp
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


@settings(deadline=None, max_examples=60)
@given(tp=sizes, rows=st.integers(1, 60), block_rows=blocks)
def test_rows_that_do_not_divide_leave_the_last_ranks_short(tp: int, rows: int, block_rows: int) -> None:
    """A vocabulary is padded to ceil(rows / tp) a rank: the writer adds what is missing here."""
    each = -(-rows // tp)
    parts = shards(matrix(rows, 3), Rule.ROWS, tp, block_rows, each)
    assert np.array_equal(np.concatenate(parts), matrix(rows, 3))
    assert all(len(part) == min(each, max(0, rows - rank * each)) for rank, part in enumerate(parts))


@settings(deadline=None, max_examples=60)
@given(tp=sizes, rows=st.integers(1, 20), block_rows=blocks)
def test_every_rank_has_the_whole_of_a_replicated_tensor(tp: int, rows: int, block_rows: int) -> None:
    whole = matrix(rows, 5)
    assert all(np.array_equal(part, whole) for part in shards(whole, Rule.WHOLE, tp, block_rows, rows))


def unpack(packed: Bytes) -> Bytes:
    """[out/2, in] bytes to [out, in] nibbles: low nibble = even row."""
    return np.stack([packed & 15, packed >> 4], axis=1).reshape(-1, packed.shape[1])


@settings(deadline=None, max_examples=60)
@given(tp=sizes, pairs=st.integers(1, 6), each=st.integers(1, 6), block_rows=blocks)
def test_packed_int4_weights_split_between_pairs_of_rows(
    tp: int, pairs: int, each: int, block_rows: int
) -> None:
    packed = matrix(tp * pairs, tp * each)
    by_rows = shards(packed, Rule.ROWS, tp, block_rows, pairs)
    by_columns = shards(packed, Rule.COLUMNS, tp, block_rows, len(packed))
    for rank in range(tp):
        assert np.array_equal(unpack(by_rows[rank]), np.split(unpack(packed), tp)[rank])
        assert np.array_equal(unpack(by_columns[rank]), np.split(unpack(packed), tp, axis=1)[rank])
