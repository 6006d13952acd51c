"""The answers of all models that can answer on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from enginewright.peak_memory import release_memory
from enginewright.quality.answers import PROBLEM_TOKENS, Answers, generate_answers
from enginewright.quality.exact_engine import exact_engine, why_no_exact_engine
from enginewright.quality.texts import ReportTexts

if TYPE_CHECKING:
    from enginewright_onnx.runtime import ModelSession

__all__ = ["ModelAnswers", "model_answers"]


@dataclass(frozen=True, slots=True)
class ModelAnswers:
    """by_model: of "original", "checkpoint" and "engine" those that answered. tokens: how long they could be.

    note: why the checkpoints did not answer, "" if they did.
    """

    by_model: Mapping[str, Answers]
    tokens: int
    note: str


def model_answers(
    checkpoints: Mapping[str, Path],
    session: ModelSession | None,
    texts: ReportTexts,
    tokens: int,
    scratch: Path,
    threads: int | None,
) -> ModelAnswers:
    """Ask the `checkpoints`, of which "original" is one, and the engine.

    Checkpoints answer with the engine's batcher and sampler, one after another in the empty folder `scratch`,
    so that the weights alone differ. Raises StageFailed where an engine could not be run.
    """
    if not texts.prompts and not texts.problems:
        return ModelAnswers({}, tokens, "")
    if session is not None:
        longest = max((len(prompt) for prompt in texts.prompts), default=0)
        tokens = min(tokens, session.config.native.max_seq_len - longest)
    note, found = why_no_exact_engine(checkpoints["original"], scratch), dict[str, Answers]()
    if not note:
        for name, checkpoint in checkpoints.items():
            found[name] = _exact_answers(checkpoint, texts, tokens, scratch / name, threads)
            release_memory()
    if session is not None:
        found["engine"] = generate_answers(session, texts, tokens)
    return ModelAnswers(found, tokens, note)


def _exact_answers(
    checkpoint: Path, texts: ReportTexts, tokens: int, folder: Path, threads: int | None
) -> Answers:
    """In a function of its own, so that the engine is gone when the next one is made."""
    needed = [len(prompt) + tokens for prompt in texts.prompts]
    needed += [len(problem.prompt) + PROBLEM_TOKENS for problem in texts.problems]
    slots = 2 * len(texts.prompts) + len(texts.problems)
    with exact_engine(checkpoint, folder, max_seq_len=max(needed), slots=slots, threads=threads) as session:
        return generate_answers(session, texts, tokens)
