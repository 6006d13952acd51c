"""From logits to tokens: one token for each row, by each request's own parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from enginewright_onnx.runtime.draw import draw, weights
from enginewright_onnx.runtime.logit_edits import LogitEdits
from enginewright_onnx.runtime.request import SamplingParams


class Sampled(NamedTuple):
    """A chosen token; `error` says why there is none, and then token is -1."""

    token: int
    logprob: float | None
    error: str | None


class SamplerState:
    """What one request carries from token to token: parameters, edits, and a random generator of its own.

    The generator draws exactly one number a token, so a seeded request does not depend on its neighbours.
    """

    def __init__(self, sampling: SamplingParams, prompt: NDArray[np.int32], end_ids: frozenset[int]) -> None:
        self.sampling = sampling
        self.edits = LogitEdits(sampling, prompt, end_ids)
        # PCG64 by name: default_rng may change with NumPy's version.
        self._generator = None if sampling.greedy else np.random.Generator(np.random.PCG64(sampling.seed))

    @property
    def plain(self) -> bool:
        """Whether the token is just the largest logit."""
        return self._generator is None and not self.sampling.logprobs and not self.edits.active

    def choose(self, row: NDArray[np.float32]) -> Sampled:
        """Choose the next token from the logits `row` [vocab], which is changed."""
        original = row.copy() if self.sampling.logprobs and self.edits.active else row
        if self.edits.active:
            self.edits.apply(row)
        if self._generator is None:
            token = int(row.argmax())
        else:
            token = draw(row, self.sampling, self._generator.random())
        if not np.isfinite(row[token]):
            return _no_token(row[token])
        logprob = _log_probability(original, token) if self.sampling.logprobs else None
        self.edits.note(token)
        return Sampled(token, logprob, None)


def sample(logits: NDArray[np.float32], states: Sequence[SamplerState]) -> list[Sampled]:
    """The next token of each request. logits: float32 [N, vocab], row i for states[i]; changed in place.

    A row that cannot be sampled gives a `Sampled` with an error; the other rows are not affected.
    """
    if all(state.plain for state in states):
        return _sample_plain(logits, states)
    return [_choose_guarded(row, state) for row, state in zip(logits, states, strict=True)]


def _sample_plain(logits: NDArray[np.float32], states: Sequence[SamplerState]) -> list[Sampled]:
    tokens = logits.argmax(axis=1)
    if not np.isfinite(logits[np.arange(len(tokens)), tokens]).all():
        return [_choose_guarded(row, state) for row, state in zip(logits, states, strict=True)]
    # Edits that are not active now never will be again: there is nothing to note.
    return [Sampled(token, None, None) for token in tokens.tolist()]


def _choose_guarded(row: NDArray[np.float32], state: SamplerState) -> Sampled:
    try:
        return state.choose(row)
    except Exception as error:  # one request's failure must not become its neighbours'
        return Sampled(-1, None, f"sampling failed: {type(error).__name__}: {error}")


def _no_token(logit: np.float32) -> Sampled:
    if np.isneginf(logit):
        return Sampled(-1, None, "bad_token_sequences and min_tokens leave no token to choose")
    return Sampled(-1, None, "the model's logits are not finite")


def _log_probability(row: NDArray[np.float32], token: int) -> float:
    best = row.max()
    return float(row[token] - best) - float(np.log(weights(row, best, 1.0).sum()))
