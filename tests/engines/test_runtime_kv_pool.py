"""The KV pool: as many rows as the budget holds, memory only for what is used, rows exchanged exactly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from enginewright_errors import DoesNotFit
from enginewright_onnx.runtime import KVPool
from fake_model import fake_config

CONFIG = dataclasses.replace(
    fake_config(slots=4, slot_tokens=16), num_layers=3, num_kv_heads=2, head_dim=5, kv_budget_bytes=1 << 20
)
SLOT_BYTES = 2 * 3 * 2 * 16 * 5 * 4


def filled() -> tuple[KVPool, list[np.ndarray]]:
    pool = KVPool(CONFIG)
    for index, buffer in enumerate(pool.buffers):
        buffer[...] = np.random.default_rng(index).random(buffer.shape)
    return pool, [buffer.copy() for buffer in pool.buffers]


@pytest.mark.parametrize(("budget", "slots"), [(1 << 20, 4), (3 * SLOT_BYTES + 1, 3), (SLOT_BYTES, 1)])
def test_slots_are_what_the_budget_holds_and_no_more_than_wanted(budget: int, slots: int) -> None:
    pool = KVPool(CONFIG, budget)
    assert pool.slots == slots
    assert sum(buffer.nbytes for buffer in pool.buffers) == slots * SLOT_BYTES <= budget


def test_a_budget_below_one_slot_names_the_max_seq_len_that_fits() -> None:
    with pytest.raises(DoesNotFit, match=str(SLOT_BYTES - 1)) as caught:
        KVPool(CONFIG, SLOT_BYTES - 1)
    assert "max_seq_len <= 15" in caught.value.hint
    assert KVPool(dataclasses.replace(CONFIG, max_seq_len=15), SLOT_BYTES - 1).slots == 1


@pytest.mark.parametrize(("left", "right"), [(3, 9), (9, 3), (16, 16), (0, 7), (7, 0), (0, 0)])
def test_swap_exchanges_the_used_tokens_and_touches_no_other_row(left: int, right: int) -> None:
    pool, before = filled()
    pool.swap(0, 2, left, right)
    for now, was in zip(pool.buffers, before, strict=True):
        np.testing.assert_array_equal(now[0, :, :right], was[2, :, :right])
        np.testing.assert_array_equal(now[2, :, :left], was[0, :, :left])
        np.testing.assert_array_equal(now[[1, 3]], was[[1, 3]])


def test_copy_leaves_its_source_alone() -> None:
    pool, before = filled()
    pool.copy(3, 1, 6)
    for now, was in zip(pool.buffers, before, strict=True):
        np.testing.assert_array_equal(now[1, :, :6], was[3, :, :6])
        np.testing.assert_array_equal(now[[0, 2, 3]], was[[0, 2, 3]])


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_a_row_that_nobody_used_takes_no_memory() -> None:
    config = dataclasses.replace(
        fake_config(slots=64, slot_tokens=32768), num_kv_heads=8, head_dim=64, kv_budget_bytes=1 << 40
    )
    before = resident_bytes()
    pool = KVPool(config)
    pool.keys[0][5, :, :100] = 1.0
    assert sum(buffer.nbytes for buffer in pool.buffers) == 8 << 30
    assert resident_bytes() - before < 64 << 20
