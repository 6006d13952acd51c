"""Measure what quantization cost: the original checkpoint against the quantized one against the engine.

Distributions of both checkpoints come from transformers, one layer at a time, so that a 32B model is measured
in the memory of one layer; those of the engine from the engine. Answers of the checkpoints come from exact
engines of them, where there is memory for the original's (`quality.model_answers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from enginewright_front.prompt import read_tokenizer
from numpy.typing import NDArray

from enginewright.quality.answers import Tokens, compare_answers
from enginewright.quality.choices import ChoiceScores
from enginewright.quality.figures import QualityReport
from enginewright.quality.model_answers import ModelAnswers, model_answers
from enginewright.quality.problems import problem_figures
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
    checkpoints = {"original": source} | ({"checkpoint": checkpoint} if checkpoint else {})
    answers = model_answers(checkpoints, session, texts, answer_tokens, scratch, threads)
    author = next(iter(answers.by_model), "") if texts.prompts else ""
    held_out, continuations, choices = TextAgreement(), TextAgreement(), ChoiceScores(texts.items)
    rows = list(_rows(texts, answers.by_model[author].greedy if author else ()))
    with torch_session(threads):
        for row, models in _logits(checkpoints, session, rows, progress):
            targets = row.ids[row.start :]
            if row.kind == "choice":
                choices.add(models, targets)
            else:
                group = held_out if row.kind == "held-out" else continuations
                group.add(models.pop("original"), models, targets)
        layers = (
            layer_costs(source, checkpoint, texts.held_out, progress) if sensitivity and checkpoint else ()
        )
    greedy = {name: found.greedy for name, found in answers.by_model.items()}
    sampled = {name: found.sampled for name, found in answers.by_model.items()}
    return QualityReport(
        held_out=held_out.figures(),
        author=author,
        continuations=continuations.figures(),
        greedy=compare_answers(greedy, answers.tokens),
        sampled=compare_answers(sampled, answers.tokens),
        tasks=(*choices.figures(), *problem_figures(texts.problems, _problem_texts(source, answers))),
        layers=layers,
        note=answers.note,
    )


def _problem_texts(source: Path, answers: ModelAnswers) -> dict[str, list[str]]:
    tokenizer = read_tokenizer(source)
    return {
        name: [tokenizer.decode(list(ids)) for ids in found.problems]
        for name, found in answers.by_model.items()
    }


def _open(engine: Path, threads: int | None) -> ModelSession:
    from enginewright_onnx.runtime import ModelSession, read_engine_config

    return ModelSession.open(engine, read_engine_config(engine), threads=threads)


def _rows(texts: ReportTexts, greedy: Sequence[Tokens]) -> Iterator[_Row]:
    for ids in texts.held_out:
        yield _Row("held-out", ids, 1)
    for prompt, answer in zip(texts.prompts, greedy, strict=bool(greedy)):
        yield _Row("continuation", np.concatenate([prompt, np.asarray(answer, np.int32)]), len(prompt))
    for item in texts.items:
        for choice in item.choices:
            yield _Row("choice", np.concatenate([item.prompt, choice]), len(item.prompt))


def _logits(
    checkpoints: Mapping[str, Path],
    session: ModelSession | None,
    rows: Sequence[_Row],
    progress: Progress | None,
) -> Iterator[tuple[_Row, dict[str, Logits]]]:
    """For each row the logits [S - start, vocab] that every model predicts its judged ids with."""
    from enginewright_onnx.runtime import score

    sequences = [ReferenceSequence(row.ids[:-1], start=row.start - 1) for row in rows]

    def share(index: int) -> Progress:
        """Progress of one checkpoint as that of all."""
        return lambda done, total: (
            progress(index * total + done, len(checkpoints) * total) if progress else None
        )

    references = [
        reference_logits(folder, sequences, share(index)) for index, folder in enumerate(checkpoints.values())
    ]
    for row, *found in zip(rows, *references, strict=True):
        models = dict(zip(checkpoints, found, strict=True))
        if session is not None:
            models["engine"] = score(session, row.ids[:-1])[row.start - 1 :]
        yield row, models
