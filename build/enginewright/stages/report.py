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
from numpy.typing import NDArray

from enginewright.quality.answers import Answers, compare_answers, generate_answers
from enginewright.quality.choices import ChoiceScores
from enginewright.quality.figures import QualityReport
from enginewright.quality.original_engine import original_engine, why_no_original_engine
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
    note = ""
    if texts.prompts:
        longest = max(map(len, texts.prompts))
        tokens = answer_tokens
        if session is not None:
            tokens = min(tokens, session.config.native.max_seq_len - longest)
            served = generate_answers(session, texts.prompts, tokens)
        note = why_no_original_engine(source, scratch)
        if not note:
            with original_engine(
                source,
                scratch / "original",
                max_seq_len=longest + tokens,
                slots=2 * len(texts.prompts),
                threads=threads,
            ) as original:
                own = generate_answers(original, texts.prompts, tokens)
    author = own or served
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
        author="original" if own else "engine" if served else "",
        continuations=continuations.figures(),
        greedy=compare_answers(own.greedy if own else None, served.greedy, tokens) if served else None,
        sampled=compare_answers(own.sampled if own else None, served.sampled, tokens) if served else None,
        choices=choices.figures() if texts.items else None,
        layers=layers,
        note=note,
    )


def _open(engine: Path, threads: int | None) -> ModelSession:
    from enginewright_onnx.runtime import ModelSession, read_engine_config

    return ModelSession.open(engine, read_engine_config(engine), threads=threads)


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
