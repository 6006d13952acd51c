"""What the original and the engine answer to the same prompts, greedily and sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from enginewright.quality.bootstrap import bootstrap_mean
from enginewright.quality.figures import Figure, GenerationFigures
from enginewright.quality.generate import generate
from enginewright.quality.loops import has_loop

if TYPE_CHECKING:
    from enginewright_onnx.runtime import ModelSession

__all__ = ["Answers", "compare_answers", "generate_answers"]

Tokens = tuple[int, ...]

# As chat models are usually sampled.
_TEMPERATURE, _TOP_P = 0.7, 0.95


@dataclass(frozen=True, slots=True)
class Answers:
    """One greedy and one sampled answer a prompt, in the order of the prompts."""

    greedy: tuple[Tokens, ...]
    sampled: tuple[Tokens, ...]


def generate_answers(session: ModelSession, prompts: Sequence[NDArray[np.int32]], tokens: int) -> Answers:
    """Answers of at most `tokens` tokens. The seed of a prompt is its index: every model draws alike."""
    from enginewright_onnx.runtime import SamplingParams

    greedy = [SamplingParams(max_tokens=tokens, temperature=0.0) for _ in prompts]
    sampled = [
        SamplingParams(max_tokens=tokens, temperature=_TEMPERATURE, top_p=_TOP_P, seed=seed)
        for seed in range(len(prompts))
    ]
    found = generate(session, [*prompts, *prompts], [*greedy, *sampled])
    return Answers(tuple(found[: len(prompts)]), tuple(found[len(prompts) :]))


def compare_answers(
    original: Sequence[Tokens] | None, engine: Sequence[Tokens], tokens: int
) -> GenerationFigures:
    """original: None where it did not answer. tokens: how long an answer could be."""
    pairs = list(zip(original, engine, strict=True)) if original else []
    return GenerationFigures(
        answers=len(engine),
        tokens=tokens,
        original_loop_rate=_mean([has_loop(answer) for answer in original]) if original else None,
        engine_loop_rate=_mean([has_loop(answer) for answer in engine]),
        first_divergence=_mean([_common(*pair) for pair in pairs]) if pairs else None,
        identical=_mean([left == right for left, right in pairs]) if pairs else None,
    )


def _common(left: Tokens, right: Tokens) -> int:
    """Tokens that both begin with."""
    shared = min(len(left), len(right))
    return next((index for index in range(shared) if left[index] != right[index]), shared)


def _mean(values: Sequence[float]) -> Figure:
    return bootstrap_mean([np.array([value], np.float64) for value in values])
