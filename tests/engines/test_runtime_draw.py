"""Draws against plain references that sort the whole vocabulary, and against transformers' own processors."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from enginewright_onnx.runtime import SamplingParams
from enginewright_onnx.runtime.draw import draw, top_candidates
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

VOCAB = 6000


def row_of(seed: int, scale: float = 3.0, size: int = VOCAB) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 20_000),
    count=st.integers(1, 3000),
    levels=st.sampled_from([2, 7, 1000, 10**6]),
    masked=st.booleans(),
)
def test_candidates_are_those_of_a_full_sort_even_among_equals(
    seed: int, size: int, count: int, levels: int, masked: bool
) -> None:
    chance = np.random.default_rng(seed)
    row = chance.integers(0, levels, size).astype(np.float32) * chance.choice(np.float32([-1, 1]), size)
    if masked:
        row[np.random.default_rng(seed).random(size) < 0.7] = -np.inf
    ids, logits = top_candidates(row, count)
    expected = np.argsort(-row, kind="stable")[:count]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(logits, row[expected])


def reference(row: NDArray[np.float32], sampling: SamplingParams) -> NDArray[np.float64]:
    """Probabilities after truncation, from one full stable sort."""
    order = np.argsort(-row, kind="stable")
    weight = np.exp((row[order].astype(np.float64) - float(row.max())) / sampling.temperature)
    alive = weight >= sampling.min_p
    if sampling.top_k:
        alive[sampling.top_k :] = False
    weight = np.where(alive, weight, 0.0)
    weight /= weight.sum()
    if sampling.top_p < 1.0:
        weight[int(np.searchsorted(np.cumsum(weight), sampling.top_p)) + 1 :] = 0.0
    probabilities = np.zeros(row.size)
    probabilities[order] = weight / weight.sum()
    return probabilities


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.01, 12.0),
    temperature=st.floats(0.05, 5.0),
    top_k=st.sampled_from([0, 1, 2, 20, 64, 65, 500, 5999, 6000, 10**6]),
    top_p=st.floats(0.01, 1.0),
    min_p=st.sampled_from([0.0, 0.0, 1e-4, 0.05, 0.5, 1.0]),
    uniform=st.floats(0.0, 1.0, exclude_max=True),
)
def test_a_draw_is_the_token_that_the_full_sort_gives(
    seed: int, scale: float, temperature: float, top_k: int, top_p: float, min_p: float, uniform: float
) -> None:
    row = row_of(seed, scale)
    sampling = SamplingParams(8, temperature, top_k, top_p, min_p)
    token = draw(row, sampling, uniform)
    probabilities = reference(row, sampling)
    in_order = top_k == 0 and top_p == 1.0 and min_p == 0.0
    order = np.arange(row.size) if in_order else np.argsort(-row, kind="stable")
    mass = np.cumsum(probabilities[order])
    place = int(np.flatnonzero(order == token)[0])
    # float32 sums may disagree about the last few parts in a million.
    assert (mass[place - 1] if place else 0.0) - 1e-5 <= uniform <= mass[place] + 1e-5
    assert probabilities[token] > 0 or in_order


@pytest.mark.parametrize(
    ("sampling", "warpers"),
    [
        (SamplingParams(1, 0.7, top_k=50), [TemperatureLogitsWarper(0.7), TopKLogitsWarper(50)]),
        (SamplingParams(1, 1.3, top_p=0.8), [TemperatureLogitsWarper(1.3), TopPLogitsWarper(0.8)]),
        (
            SamplingParams(1, 0.6, top_k=40, top_p=0.95),
            [TemperatureLogitsWarper(0.6), TopKLogitsWarper(40), TopPLogitsWarper(0.95)],
        ),
        (SamplingParams(1, 1.5, min_p=0.1), [TemperatureLogitsWarper(1.5), MinPLogitsWarper(0.1)]),
    ],
    ids=["top_k", "top_p", "both", "min_p"],
)
def test_the_distribution_is_that_of_transformers(sampling: SamplingParams, warpers: list) -> None:
    row = row_of(7, scale=2.0, size=4096)
    scores = torch.from_numpy(row.copy())[None]
    for warper in warpers:
        scores = warper(torch.zeros((1, 1), dtype=torch.long), scores)
    expected = torch.softmax(scores.double(), -1)[0].numpy()
    uniforms = (np.arange(20_000) + 0.5) / 20_000
    drawn = Counter(draw(row, sampling, uniform) for uniform in uniforms)
    assert set(drawn) <= set(np.flatnonzero(expected > 0))
    for token, probability in enumerate(expected):
        assert abs(drawn[token] / 20_000 - probability) < 1.5 / 20_000


def test_top_p_is_a_share_of_what_min_p_left() -> None:
    row = np.full(6000, -1.0, np.float32)
    row[:100] = 0.0
    sampling = SamplingParams(1, top_p=0.02, min_p=0.5)
    assert {draw(row, sampling, uniform) for uniform in np.linspace(0, 0.999, 50)} == {0, 1}


def test_the_tail_beyond_the_candidates_is_reached_without_truncation() -> None:
    row = np.zeros(5000, np.float32)
    drawn = {draw(row, SamplingParams(1), uniform) for uniform in (np.arange(5000) + 0.5) / 5000}
    assert drawn == set(range(5000))


@pytest.mark.parametrize("temperature", [1e-5, 0.01, 100.0])
def test_extreme_temperatures_stay_finite(temperature: float) -> None:
    row = row_of(1, scale=50.0)
    row[5:] = -np.inf
    for sampling in (SamplingParams(1, temperature), SamplingParams(1, temperature, top_p=0.9)):
        assert 0 <= draw(row, sampling, 0.999999) < 5
    assert draw(row, SamplingParams(1, 1e-5), 0.5) == int(row.argmax())
