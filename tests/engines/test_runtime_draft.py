"""Drafts are copied from the past of a sequence, and leave no trace in what it says."""

from __future__ import annotations

import numpy as np
import pytest
from enginewright_onnx.runtime import GenerationRequest, SamplingParams, TokenEvent
from enginewright_onnx.runtime.batcher import Batcher
from enginewright_onnx.runtime.draft import Drafter, follow_latest_match
from enginewright_onnx.runtime.sampler import SamplerState
from enginewright_onnx.runtime.sequence import accept
from fake_model import FakeModel, fake_config
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

CONFIG = fake_config(slots=2, slot_tokens=128, prefill_chunk=8)
VOCAB = 97


class Rambler(FakeModel):
    """Repeats itself: its last two tokens tell most of what it says next, its whole row the rest."""

    def _logits_after(self, row: int, stop: int) -> NDArray[np.float32]:
        logits = super()._logits_after(row, stop) / 4
        before_last, last = self._rows[row, max(stop - 2, 0)], self._rows[row, stop - 1]
        logits[1 + (3 * before_last + last) % 7] += 3.0
        return logits


def spoken_without_drafts(prompt: list[int], sampling: SamplingParams) -> list[int]:
    """One token a call, each from the whole text before it."""
    sampler = SamplerState(sampling, np.array(prompt, np.int32), frozenset({0}))
    model, tokens = Rambler(CONFIG), list(prompt)
    while len(tokens) < len(prompt) + sampling.max_tokens and (len(tokens) == len(prompt) or tokens[-1]):
        text = np.array(tokens, np.int32)
        tokens.append(sampler.choose(model.prefill(0, text, past=0, rope_offset=0, project=1)[0]).token)
    return tokens[len(prompt) :]


def run(model: FakeModel, prompt: list[int], sampling: SamplingParams) -> tuple[Batcher, list[TokenEvent]]:
    batcher, events = Batcher(model, prefill_chunk=8), list[TokenEvent]()
    batcher.add(accept(GenerationRequest("r", prompt, sampling), CONFIG, events.append))
    while batcher.busy:
        batcher.step()
    return batcher, events


def drafts_of(events: list[TokenEvent]) -> list[tuple[int, int]]:
    return [(event.drafted_tokens, event.accepted_tokens) for event in events]


@settings(deadline=None, max_examples=150)
@given(
    prompt=st.lists(st.integers(1, 8), min_size=1, max_size=20),
    sampling=st.builds(
        SamplingParams,
        max_tokens=st.integers(1, 40),
        temperature=st.sampled_from([0.0, 0.3, 1.0]),
        top_p=st.sampled_from([1.0, 0.9]),
        repetition_penalty=st.sampled_from([1.0, 1.1]),
        min_tokens=st.sampled_from([0, 1]),
        logprobs=st.booleans(),
        seed=st.integers(0, 5),
    ),
)
def test_every_token_is_the_one_that_comes_without_drafts(
    prompt: list[int], sampling: SamplingParams
) -> None:
    batcher, events = run(Rambler(CONFIG), prompt, sampling)
    tokens = [token for event in events for token in event.token_ids]
    assert tokens == spoken_without_drafts(prompt, sampling)
    assert batcher.generated_tokens == len(tokens)
    assert all((event.logprobs is not None) == sampling.logprobs for event in events if event.token_ids)


def test_a_text_that_repeats_itself_takes_fewer_steps_than_it_has_tokens() -> None:
    model = Rambler(CONFIG)
    _, events = run(model, [1, 2, 3], SamplingParams(60, 0.0))
    assert len(events) == 60
    assert len(model.calls) < 45
    drafted, accepted = (sum(counts) for counts in zip(*drafts_of(events), strict=True))
    assert 0 < accepted < drafted
    assert len(model.calls) == 1 + 59 - accepted, "each accepted token saves a call"


def test_two_sequences_decode_as_a_batch_without_drafts() -> None:
    model = Rambler(CONFIG)
    batcher, events = Batcher(model, prefill_chunk=8), list[TokenEvent]()
    for prompt in ([1, 2, 3], [3, 2, 1]):
        batcher.add(accept(GenerationRequest("r", prompt, SamplingParams(30, 0.0)), CONFIG, events.append))
    while len(batcher.scheduler.decoding) < 2:
        batcher.step()
    model.calls.clear()
    while not any(event.finish_reason for event in events):
        batcher.step()
    assert {(kind, rows) for kind, rows, _ in model.calls} == {("decode", 2)}


def test_an_end_token_inside_a_draft_ends_the_request_there_and_its_row_is_reused() -> None:
    prompt, sampling = [1, 2, 3], SamplingParams(60, 0.0)
    spoken = spoken_without_drafts(prompt, sampling)
    end = len(spoken) // 2
    stop = spoken[end]
    sampling = SamplingParams(60, 0.0, stop_token_ids=(stop,))
    batcher, events = run(Rambler(CONFIG), prompt, sampling)
    tokens = [token for event in events for token in event.token_ids]
    assert tokens == spoken[: spoken.index(stop) + 1]
    assert events[-1].finish_reason == "stop"
    assert batcher.scheduler.slots.free == 2


@pytest.mark.parametrize("cancel_at", range(3, 12))
def test_a_request_cancelled_in_the_middle_of_a_draft_hears_nothing_more(cancel_at: int) -> None:
    batcher, events = Batcher(Rambler(CONFIG), prefill_chunk=8), list[TokenEvent]()

    def listen(event: TokenEvent) -> None:
        events.append(event)
        if len(events) == cancel_at:
            batcher.cancel(sequence)

    sequence = accept(GenerationRequest("r", [1, 2, 3], SamplingParams(60, 0.0)), CONFIG, listen)
    batcher.add(sequence)
    while batcher.busy:
        batcher.step()
    assert len(events) == cancel_at + 1
    assert events[-1].finish_reason == "cancelled"


def test_a_failing_call_with_a_draft_ends_the_request_and_its_row_is_not_trusted() -> None:
    def fail_with_a_draft(kind: str, rows: int, tokens: int) -> None:
        if kind == "prefill" and 1 < tokens != 7:
            raise RuntimeError("out of memory")

    model = Rambler(CONFIG, fail_with_a_draft)
    batcher, events = run(model, [1, 2, 1, 2, 1, 2, 1], SamplingParams(40, 0.0))
    assert events[-1].finish_reason == "error"
    assert batcher.scheduler.slots.free == 2
    assert all(row.length == 0 for row in batcher.scheduler.slots._rows)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, 2, 3, 4, 9, 1, 2], [3, 4, 9]),
        ([1, 2, 3, 8, 1, 2, 4, 8, 1, 2], [4, 8, 1]),  # the latest of two places
        ([5, 1, 2, 3, 9, 1, 2, 4, 5, 1, 2], [3, 9, 1]),  # the longer match before the later one
        ([7, 7, 7], [7]),
        ([1, 2, 3], []),
        ([3, 1, 2, 3], []),  # one token alone is no match
        ([1], []),
    ],
)
def test_a_draft_is_what_followed_the_longest_match(tokens: list[int], expected: list[int]) -> None:
    assert follow_latest_match(np.array(tokens, np.int32), 3).tolist() == expected


def test_a_draft_keeps_to_the_tokens_that_are_left() -> None:
    tokens = np.array([1, 2, 3, 4, 1, 2], np.int32)
    assert [len(Drafter().propose(tokens, limit)) for limit in (-1, 0, 1, 5)] == [0, 0, 1, 2]


def test_drafts_grow_while_they_are_accepted_and_shrink_when_not() -> None:
    drafter, text = Drafter(), np.tile(np.arange(20, dtype=np.int32), 3)
    lengths = []
    for accepted in (2, 4, 8, 8, 3, 0, 1):
        lengths.append(len(drafter.propose(text, 100)))
        drafter.learn(lengths[-1], accepted)
    assert lengths == [2, 4, 8, 8, 8, 3, 1]
    assert len(drafter.propose(text, 100)) == 2
