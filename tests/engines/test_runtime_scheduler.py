"""The policy: prefill and decode alternate, prompts are served fairly, decoding rows stay at the front."""

from __future__ import annotations

import random

import pytest
from enginewright_onnx.runtime import GenerationRequest, SamplingParams
from enginewright_onnx.runtime.scheduler import DecodeStep, PrefillChunk, Scheduler
from enginewright_onnx.runtime.sequence import Sequence, accept
from enginewright_onnx.runtime.slots import Slots
from fake_model import FakeModel, fake_config

CONFIG = fake_config(slots=4, slot_tokens=4096, prefill_chunk=8, vocab=4096)


def scheduler_of(slots: int = 4) -> Scheduler:
    return Scheduler(Slots(FakeModel(fake_config(slots=slots, slot_tokens=4096)), reuse=False), 8)


def prompt(name: str, length: int) -> Sequence:
    return accept(GenerationRequest(name, [1] * length, SamplingParams(max_tokens=100)), CONFIG, print)


def work(scheduler: Scheduler, steps: int) -> list[str]:
    """Carry out steps as the batcher would, without a model: "a" is a chunk of a, "a+b" a decode step."""
    done = []
    for _ in range(steps):
        step = scheduler.next_step()
        if isinstance(step, PrefillChunk):
            done.append(step.sequence.request_id)
            step.row.length = step.stop
            if step.stop == step.sequence.prompt_length:
                scheduler.start_decoding(step.sequence)
        elif isinstance(step, DecodeStep):
            done.append("+".join(sequence.request_id for sequence in step.sequences))
            for sequence in step.sequences:
                assert sequence.row is not None
                sequence.row.length += 1
    return done


def test_one_chunk_alternates_with_one_decode_step() -> None:
    scheduler = scheduler_of()
    scheduler.add(prompt("a", 4))
    scheduler.add(prompt("b", 24))
    assert work(scheduler, 8) == ["a", "a", "b", "a", "b", "a", "b", "a+b"]


def test_equal_prompts_are_served_one_after_the_other_in_order_of_arrival() -> None:
    scheduler = scheduler_of()
    for name in "abc":
        scheduler.add(prompt(name, 24))
    done = work(scheduler, 15)
    assert done == ["a", "a", "a", "a", "b", "a", "b", "a", "b", "a+b", "c", "a+b", "c", "a+b", "c"]


def test_a_short_prompt_waits_for_one_foreign_chunk_and_not_for_the_long_prompt() -> None:
    scheduler = scheduler_of()
    scheduler.add(prompt("L", 800))
    assert work(scheduler, 3) == ["L", "L", "L"]
    scheduler.add(prompt("s", 8))
    assert "s" in work(scheduler, 2)


def test_short_prompts_without_end_leave_a_long_one_every_second_chunk() -> None:
    scheduler = scheduler_of()
    scheduler.add(prompt("L", 800))
    chunks = []
    for index in range(40):
        scheduler.add(prompt(f"s{index}", 8))
        step = scheduler.next_step()
        assert isinstance(step, PrefillChunk)
        step.row.length = step.stop
        chunks.append(step.sequence.request_id)
        if step.stop == step.sequence.prompt_length:
            scheduler.remove(step.sequence)
    assert chunks.count("L") == 20


def test_chunks_of_a_prompt_are_of_equal_size() -> None:
    scheduler = scheduler_of()
    scheduler.add(prompt("a", 17))
    sizes = []
    for _ in range(3):
        step = scheduler.next_step()
        assert isinstance(step, PrefillChunk)
        sizes.append(step.stop - step.start)
        step.row.length = step.stop
    assert sizes == [6, 6, 5]


def test_requests_wait_until_a_row_is_free_and_join_in_order() -> None:
    scheduler = scheduler_of(slots=2)
    sequences = [prompt(name, 4) for name in "abcd"]
    for sequence in sequences:
        scheduler.add(sequence)
    assert work(scheduler, 4) == ["a", "a", "b", "a+b"]
    assert [sequence.request_id for sequence in scheduler.waiting] == ["c", "d"]
    scheduler.remove(sequences[0])
    assert work(scheduler, 3) == ["c", "b+c", "b+c"]


def test_nothing_to_do_is_none() -> None:
    scheduler = scheduler_of()
    assert scheduler.next_step() is None
    sequence = prompt("a", 4)
    scheduler.add(sequence)
    scheduler.remove(sequence)
    assert scheduler.next_step() is None


@pytest.mark.parametrize("seed", range(20))
def test_decoding_rows_stay_at_the_front_whatever_comes_and_goes(seed: int) -> None:
    chance = random.Random(seed)
    scheduler = scheduler_of(slots=5)
    alive: list[Sequence] = []
    for index in range(300):
        if chance.random() < 0.3:
            alive.append(prompt(str(index), chance.randint(1, 40)))
            scheduler.add(alive[-1])
        if alive and chance.random() < 0.2:
            scheduler.remove(alive.pop(chance.randrange(len(alive))))
        work(scheduler, 1)
        rows = [sequence.row.index for sequence in scheduler.decoding if sequence.row is not None]
        assert rows == list(range(len(scheduler.decoding)))
        taken = [sequence.row.index for sequence in scheduler.sequences if sequence.row is not None]
        assert len(set(taken)) == len(taken) == 5 - scheduler.slots.free
        assert scheduler.active <= 5
