"""Rows keep what they hold until it is needed elsewhere, and a prompt starts behind what some row holds."""

from __future__ import annotations

import numpy as np
import pytest
from enginewright_onnx.runtime.slots import Row, Slots
from fake_model import FakeModel, fake_config

SYSTEM = list(range(1, 41))


def slots_of(count: int, *, reuse: bool = True) -> Slots:
    return Slots(FakeModel(fake_config(slots=count, slot_tokens=256)), reuse=reuse)


def run(
    slots: Slots, prompt: list[int], *, rope_offset: int = 0, computed: int | None = None
) -> tuple[Row, int]:
    """Take a row and compute the prompt; the row and the tokens that it held already."""
    row = slots.take(np.array(prompt, np.int32), len(prompt), rope_offset)
    reused = row.length
    row.length = len(prompt) if computed is None else computed
    return row, reused


def test_the_next_turn_of_a_chat_goes_on_in_its_own_row() -> None:
    slots = slots_of(3)
    first, _ = run(slots, SYSTEM)
    slots.release(first)
    second, reused = run(slots, [*SYSTEM, 50, 51])
    assert (second, reused) == (first, 40)


def test_a_shared_beginning_is_copied_and_its_owner_keeps_the_rest() -> None:
    slots = slots_of(3)
    chat, _ = run(slots, [*SYSTEM, 60, 61, 62])
    slots.release(chat)
    other, reused = run(slots, [*SYSTEM, 70, 71])
    assert (reused, other is chat) == (40, False)
    again, reused = run(slots, [*SYSTEM, 60, 61, 62, 63])
    assert (reused, again is chat) == (43, True)


def test_a_beginning_is_shared_with_a_row_that_is_at_work() -> None:
    slots = slots_of(2)
    working, _ = run(slots, SYSTEM, computed=30)
    other, reused = run(slots, SYSTEM)
    assert (reused, other is working) == (30, False)


def test_the_last_token_of_a_prompt_is_always_left_to_compute() -> None:
    slots = slots_of(2)
    row, _ = run(slots, SYSTEM)
    slots.release(row)
    assert run(slots, SYSTEM)[1] == len(SYSTEM) - 1


@pytest.mark.parametrize(
    ("prompt", "rope_offset"),
    [(SYSTEM[:10], 0), ([9, *SYSTEM], 0), (SYSTEM, 128)],
    ids=["short", "shifted", "region"],
)
def test_nothing_is_shared_that_would_be_wrong_or_useless(prompt: list[int], rope_offset: int) -> None:
    slots = slots_of(2)
    row, _ = run(slots, SYSTEM)
    slots.release(row)
    assert run(slots, prompt, rope_offset=rope_offset)[1] == 0


def test_rows_that_failed_or_that_must_not_be_shared_are_forgotten() -> None:
    for slots, keep in ((slots_of(2), False), (slots_of(2, reuse=False), True)):
        row, _ = run(slots, SYSTEM)
        slots.release(row, keep=keep)
        assert run(slots, SYSTEM)[1] == 0


def test_the_row_that_was_idle_for_longest_is_given_away_first() -> None:
    slots = slots_of(3)
    rows = [run(slots, [base] * 20)[0] for base in (1, 2, 3)]
    for row in (rows[1], rows[2], rows[0]):
        slots.release(row)
    assert [run(slots, [9] * 20)[0] for _ in range(3)] == [rows[1], rows[2], rows[0]]


def test_taking_more_rows_than_there_are_is_refused() -> None:
    slots = slots_of(1)
    run(slots, SYSTEM)
    with pytest.raises(LookupError):
        run(slots, SYSTEM)


def test_placing_a_row_exchanges_contents_and_indices() -> None:
    slots = slots_of(3)
    one, _ = run(slots, [1] * 20)
    two, _ = run(slots, [2] * 30)
    slots.place(two, 0)
    assert (one.index, two.index) == (1, 0)
    assert slots.tokens_used == 50
