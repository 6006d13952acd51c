"""Measure what quantization cost: the original checkpoint against the quantized one against the engine.

Distributions of both checkpoints come from transformers, one layer at a time, so that a 32B model is measured
in the memory of one layer; those of the engine from the engine. The original's own answers come from a
float32 engine of it, where there is memory for one: the same batcher and sampler, so that the weights alone
differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from enginewright_front.prompt import read_tokenizer
from numpy.typing import NDArray

from enginewright.peak_memory import release_memory
from enginewright.quality.answers import PROBLEM_TOKENS, Answers, compare_answers, generate_answers
from enginewright.quality.choices import ChoiceScores
from enginewright.quality.figures import Figure, ProblemFigures, QualityReport
from enginewright.quality.original_engine import original_engine, why_no_original_engine
from enginewright.quality.problems import problem_accuracy
from enginewright.quality.sensitivity import layer_costs
from enginewright.quality.text_agreement import TextAgreement
from enginewright.quality.texts import ReportTexts
from enginewright.reference_logits import ReferenceSequence, reference_logits
from enginewright.torch_session import torch_session

if TYPE_CHECKING:
    from enginewright_onnx.runtime import ModelSession

__all__ = ["measure_quality"]

Progress = Callable[[int, int], None]
Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Row:
    """ids [S] of which those from `start` on are predicted and judged."""

    kind: str
    ids: NDArray[np.int32]
    start: int


def measure_quality(
    source: Path,
    checkpoint: Path | None,
    engine: Path | None,
    texts: ReportTexts,
    answer_tokens: int,
    scratch: Path,
    progress: Progress | None = None,
    *,
    sensitivity: bool = False,
    threads: int | None = None,
) -> QualityReport:
    """Figures of the quantized `checkpoint` and of the `engine` made from it against `source`.

    checkpoint: None where nothing was quantized. engine: None where it does not run on this machine.
    scratch: an empty folder, empty again afterwards. sensitivity: measure each layer by itself too.
    `progress(layers done, layers)` of the checkpoints.

    Raises:
        CheckpointError: a checkpoint lacks a tensor.
        StageFailed: an engine could not be run.
    """
    session = None if engine is None else _open(engine, threads)
    own: Answers | None = None
    served: Answers | None = None
    note, tokens = "", answer_tokens
    if texts.prompts or texts.problems:
        if session is not None:
            longest = max((len(prompt) for prompt in texts.prompts), default=0)
            tokens = min(tokens, session.config.native.max_seq_len - longest)
            served = generate_answers(session, texts, tokens)
        note = why_no_original_engine(source, scratch)
        if not note:
            own = _answers_of_original(source, texts, tokens, scratch / "original", threads)
            release_memory()
    author = (own or served) if texts.prompts else None
    held_out, continuations, choices = TextAgreement(), TextAgreement(), ChoiceScores(texts.items)
    with torch_session(threads):
        for row, models in _logits(source, checkpoint, session, list(_rows(texts, author)), progress):
            targets = row.ids[row.start :]
            if row.kind == "choice":
                choices.add(models, targets)
            else:
                group = held_out if row.kind == "held-out" else continuations
                group.add(models.pop("original"), models, targets)
        layers = (
            layer_costs(source, checkpoint, texts.held_out, progress) if sensitivity and checkpoint else ()
        )
    return QualityReport(
        held_out=held_out.figures(),
        author="" if author is None else "original" if own else "engine",
        continuations=continuations.figures(),
        greedy=compare_answers(own.greedy if own else None, served.greedy, tokens) if served else None,
        sampled=compare_answers(own.sampled if own else None, served.sampled, tokens) if served else None,
        choices=choices.figures() if texts.items else None,
        problems=_problems(source, texts, own, served),
        layers=layers,
        note=note,
    )


def _problems(
    source: Path, texts: ReportTexts, own: Answers | None, served: Answers | None
) -> ProblemFigures | None:
    if served is None or not texts.problems:
        return None
    tokenizer, right = read_tokenizer(source), [problem.answer for problem in texts.problems]

    def accuracy(answers: Answers) -> Figure:
        return problem_accuracy([tokenizer.decode(list(ids)) for ids in answers.problems], right)

    return ProblemFigures(len(right), accuracy(own) if own else None, accuracy(served))


def _open(engine: Path, threads: int | None) -> ModelSession:
    from enginewright_onnx.runtime import ModelSession, read_engine_config

    return ModelSession.open(engine, read_engine_config(engine), threads=threads)


def _answers_of_original(
    source: Path, texts: ReportTexts, tokens: int, folder: Path, threads: int | None
) -> Answers:
    """In a function of its own, so that its engine is gone when the checkpoints are read."""
    needed = [len(prompt) + tokens for prompt in texts.prompts]
    needed += [len(problem.prompt) + PROBLEM_TOKENS for problem in texts.problems]
    slots = 2 * len(texts.prompts) + len(texts.problems)
    with original_engine(source, folder, max_seq_len=max(needed), slots=slots, threads=threads) as session:
        return generate_answers(session, texts, tokens)


def _rows(texts: ReportTexts, author: Answers | None) -> Iterator[_Row]:
    for ids in texts.held_out:
        yield _Row("held-out", ids, 1)
    for prompt, answer in zip(texts.prompts, author.greedy if author else (), strict=False):
        yield _Row("continuation", np.concatenate([prompt, np.asarray(answer, np.int32)]), len(prompt))
    for item in texts.items:
        for choice in item.choices:
            yield _Row("choice", np.concatenate([item.prompt, choice]), len(item.prompt))


def _logits(
    source: Path,
    checkpoint: Path | None,
    session: ModelSession | None,
    rows: Sequence[_Row],
    progress: Progress | None,
) -> Iterator[tuple[_Row, dict[str, Logits]]]:
    """For each row the logits [S - start, vocab] that every model predicts its judged ids with."""
    from enginewright_onnx.runtime import score

    sequences = [ReferenceSequence(row.ids[:-1], start=row.start - 1) for row in rows]
    folders = {"original": source} | ({"checkpoint": checkpoint} if checkpoint else {})

    def share(index: int) -> Progress:
        """Progress of one checkpoint as that of all."""
        return lambda done, total: progress(index * total + done, len(folders) * total) if progress else None

    references = [
        reference_logits(folder, sequences, share(index)) for index, folder in enumerate(folders.values())
    ]
    for row, *found in zip(rows, *references, strict=True):
        models = dict(zip(folders, found, strict=True))
        if session is not None:
            models["engine"] = score(session, row.ids[:-1])[row.start - 1 :]
        yield row, models
