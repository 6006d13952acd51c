"""What one request's sampling parameters do to its row, and that they do nothing to other rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from enginewright_onnx.runtime import SamplingParams
from enginewright_onnx.runtime.logit_edits import LogitEdits
from enginewright_onnx.runtime.sampler import SamplerState, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

VOCAB = 50
PROMPT = np.array([3, 4, 5, 4], np.int32)


def row_of(seed: int) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(VOCAB) * 3).astype(np.float32)


def state(
    prompt: NDArray[np.int32] = PROMPT, end_ids: frozenset[int] = frozenset({0}), **sampling
) -> SamplerState:
    return SamplerState(SamplingParams(**{"max_tokens": 64, "temperature": 0.0} | sampling), prompt, end_ids)


def edited(row: NDArray[np.float32], output: list[int], prompt: NDArray[np.int32] = PROMPT, **sampling):
    edits = LogitEdits(SamplingParams(max_tokens=64, **sampling), prompt, frozenset({0, 7}))
    for token in output:
        edits.note(token)
    row = row.copy()
    edits.apply(row)
    return row


@settings(deadline=None, max_examples=50)
@given(
    prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=400),
    output=st.lists(st.integers(0, VOCAB - 1), max_size=400),
    repetition=st.floats(0.5, 2.0),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
)
def test_penalties_count_the_tokens_that_they_should(
    prompt: list[int], output: list[int], repetition: float, presence: float, frequency: float
) -> None:
    row = row_of(1)
    ids = torch.tensor([prompt + output])
    expected = RepetitionPenaltyLogitsProcessor(repetition)(ids, torch.from_numpy(row.copy())[None])[
        0
    ].numpy()
    counts = np.bincount(output, minlength=VOCAB)
    expected = expected - frequency * counts - presence * (counts > 0)
    actual = edited(
        row,
        output,
        np.array(prompt, np.int32),
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-3)


def test_penalties_remember_more_tokens_than_they_have_room_for_at_first() -> None:
    edits = LogitEdits(SamplingParams(max_tokens=2000, frequency_penalty=1.0), PROMPT, frozenset())
    for token in range(2000):
        edits.note(token)
    row = np.zeros(2000, np.float32)
    edits.apply(row)
    np.testing.assert_array_equal(row, -np.ones(2000, np.float32))


@settings(deadline=None, max_examples=60)
@given(
    output=st.lists(st.integers(1, 4), max_size=12),
    bad=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6),
)
def test_bad_sequences_are_masked_as_transformers_masks_them(
    output: list[int], bad: list[tuple[int, ...]]
) -> None:
    row = row_of(2)
    processor = NoBadWordsLogitsProcessor([list(sequence) for sequence in bad], eos_token_id=0)
    ids = torch.tensor([[*PROMPT.tolist(), *output]])
    expected = processor(ids, torch.from_numpy(row.copy())[None])[0].numpy()
    np.testing.assert_array_equal(edited(row, output, bad_token_sequences=tuple(bad)), expected)


def test_end_and_stop_ids_are_masked_until_min_tokens() -> None:
    for generated in (0, 2, 3):
        row = row_of(3)
        processor = MinNewTokensLengthLogitsProcessor(len(PROMPT), 3, [0, 7])
        ids = torch.zeros((1, len(PROMPT) + generated), dtype=torch.long)
        expected = processor(ids, torch.from_numpy(row.copy())[None])[0].numpy()
        np.testing.assert_array_equal(edited(row, [1] * generated, min_tokens=3), expected)


def test_greedy_takes_the_largest_logit_and_the_lowest_id_among_equals() -> None:
    logits = np.zeros((2, VOCAB), np.float32)
    logits[1, [9, 4]] = 5.0
    assert [chosen.token for chosen in sample(logits, [state(), state()])] == [0, 4]


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.8, "seed": 1}, {"min_tokens": 5}, {"repetition_penalty": 1.5}]
)
def test_logprob_is_the_models_own_whatever_is_done_to_the_row(sampling: dict) -> None:
    row = row_of(4)
    chosen = sample(row[None].copy(), [state(logprobs=True, **sampling)])[0]
    assert chosen.logprob == pytest.approx(
        torch.log_softmax(torch.from_numpy(row), -1)[chosen.token].item(), abs=1e-5
    )


def test_a_seed_gives_the_same_tokens_beside_any_neighbours() -> None:
    def run(neighbours: int) -> list[int]:
        seeded = state(temperature=1.2, top_p=0.9, seed=42)
        others = [state(temperature=1.0, top_k=5, seed=index) for index in range(neighbours)]
        return [
            sample(np.stack([row_of(step)] * (neighbours + 1)), [*others, seeded])[-1].token
            for step in range(30)
        ]

    assert run(0) == run(1) == run(7)
    assert len(set(run(0))) > 5


def test_without_a_seed_two_requests_differ() -> None:
    def run() -> list[int]:
        unseeded = state(temperature=2.0)
        return [sample(row_of(step)[None], [unseeded])[0].token for step in range(40)]

    assert run() != run()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.7}, {"temperature": 0.7, "top_p": 0.5}, {"logprobs": True}]
)
def test_a_row_that_cannot_be_sampled_fails_alone(poison: float, sampling: dict) -> None:
    logits = np.stack([row_of(5), np.full(VOCAB, poison, np.float32), row_of(6)])
    good, bad, also_good = sample(logits, [state(), state(**sampling), state()])
    assert bad.token == -1 and bad.error
    assert (good.token, also_good.token) == (int(row_of(5).argmax()), int(row_of(6).argmax()))
    assert good.error is None and also_good.error is None


def test_masking_every_token_is_an_error_of_that_request() -> None:
    everything = tuple((token,) for token in range(VOCAB))
    chosen = sample(row_of(7)[None], [state(bad_token_sequences=everything)])[0]
    assert "leave no token" in (chosen.error or "")


def test_an_exception_while_sampling_is_an_error_of_that_request() -> None:
    broken = state(prompt=np.array([VOCAB + 5], np.int32), repetition_penalty=2.0)
    good, bad = sample(np.stack([row_of(8), row_of(8)]), [state(), broken])
    assert good.token == int(row_of(8).argmax())
    assert "IndexError" in (bad.error or "")
