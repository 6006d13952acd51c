"""What models answer to the same prompts, greedily and sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from enginewright.quality.bootstrap import bootstrap_mean
from enginewright.quality.figures import AnswerFigures, Figure, GenerationFigures
from enginewright.quality.generate import generate
from enginewright.quality.loops import has_loop
from enginewright.quality.texts import ReportTexts

if TYPE_CHECKING:
    from enginewright_onnx.runtime import ModelSession

__all__ = ["PROBLEM_TOKENS", "Answers", "Tokens", "compare_answers", "generate_answers"]

Tokens = tuple[int, ...]

PROBLEM_TOKENS = 256  # of an answer to a word problem
# As chat models are usually sampled.
_TEMPERATURE, _TOP_P = 0.7, 0.95


@dataclass(frozen=True, slots=True)
class Answers:
    """A greedy and a sampled answer to each prompt, a greedy one to each problem, in the order of those."""

    greedy: tuple[Tokens, ...]
    sampled: tuple[Tokens, ...]
    problems: tuple[Tokens, ...]


def generate_answers(session: ModelSession, texts: ReportTexts, tokens: int) -> Answers:
    """Answers of at most `tokens` tokens. The seed of a prompt is its index: every model draws alike."""
    from enginewright_onnx.runtime import SamplingParams

    limit = session.config.native.max_seq_len
    samplings = [SamplingParams(max_tokens=tokens, temperature=0.0) for _ in texts.prompts]
    samplings += [
        SamplingParams(max_tokens=tokens, temperature=_TEMPERATURE, top_p=_TOP_P, seed=seed)
        for seed in range(len(texts.prompts))
    ]
    samplings += [
        SamplingParams(max_tokens=min(PROBLEM_TOKENS, limit - len(problem.prompt)), temperature=0.0)
        for problem in texts.problems
    ]
    prompts = [*texts.prompts, *texts.prompts, *(problem.prompt for problem in texts.problems)]
    found, count = tuple(generate(session, prompts, samplings)), len(texts.prompts)
    return Answers(found[:count], found[count : 2 * count], found[2 * count :])


def compare_answers(answers: Mapping[str, Sequence[Tokens]], tokens: int) -> GenerationFigures | None:
    """answers: by model, to the same prompts. tokens: how long an answer could be. None without answers."""
    original = answers.get("original")
    count = max((len(found) for found in answers.values()), default=0)
    if not count:
        return None

    def figures(model: str) -> AnswerFigures | None:
        found = answers.get(model)
        if found is None:
            return None
        pairs = [] if original is None else list(zip(original, found, strict=True))
        return AnswerFigures(
            loop_rate=_mean([has_loop(answer) for answer in found]),
            first_divergence=_mean([_common(*pair) for pair in pairs]) if pairs else None,
            identical=_mean([left == right for left, right in pairs]) if pairs else None,
        )

    loops = _mean([has_loop(answer) for answer in original]) if original else None
    return GenerationFigures(count, tokens, loops, figures("checkpoint"), figures("engine"))


def _common(left: Tokens, right: Tokens) -> int:
    """Tokens that both begin with."""
    shared = min(len(left), len(right))
    return next((index for index in range(shared) if left[index] != right[index]), shared)


def _mean(values: Sequence[float]) -> Figure:
    return bootstrap_mean([np.array([value], np.float64) for value in values])
