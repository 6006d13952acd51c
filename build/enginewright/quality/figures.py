"""The figures of a quality report, as they stand in report.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from enginewright_errors import UsageError

__all__ = [
    "MODELS",
    "AnswerFigures",
    "Figure",
    "GenerationFigures",
    "LayerCost",
    "QualityReport",
    "TaskFigures",
    "TextFigures",
    "TextsFigures",
    "read_quality_report",
]


MODELS = ("original", "checkpoint", "engine")  # what a report compares, in the order of its columns


@dataclass(frozen=True, slots=True)
class Figure:
    """An estimate and its 95% percentile bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TextFigures:
    """One model against the original on the same text, teacher-forced.

    perplexity: of the text's next tokens. perplexity_ratio: over the original's.
    mean_kl, p99_kl: over positions, of KL(original || model) of the next-token distribution, in nats.
    top1: share of positions whose likeliest token is the original's. top5: mean share of the original's five
    likeliest tokens that are among the model's five.
    kl_quantiles: of the KL at 0, 5, ..., 100%.
    """

    perplexity: Figure
    perplexity_ratio: Figure
    mean_kl: Figure
    p99_kl: Figure
    top1: Figure
    top5: Figure
    kl_quantiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TextsFigures:
    """Both models on some texts. checkpoint: the quantized one; None where it is the original.

    engine: None where none runs on this machine.
    """

    positions: int
    perplexity: Figure
    checkpoint: TextFigures | None
    engine: TextFigures | None


@dataclass(frozen=True, slots=True)
class AnswerFigures:
    """A model's answers beside the original's; None: the original did not answer here.

    loop_rate: share that run into a loop (`quality.loops`). first_divergence: tokens that an answer begins
    with as the original's does, mean. identical: share of answers that are the same to the end.
    """

    loop_rate: Figure
    first_divergence: Figure | None
    identical: Figure | None


@dataclass(frozen=True, slots=True)
class GenerationFigures:
    """Answers to the prompts, greedy or sampled with one seed a prompt: how many, of at most `tokens` tokens.

    checkpoint, engine: None where it did not answer, as the original's loop rate.
    """

    answers: int
    tokens: int
    original_loop_rate: Figure | None
    checkpoint: AnswerFigures | None
    engine: AnswerFigures | None


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """Accuracy on one task; None where a model did not answer.

    Of multiple choice, the answer is the choice with the best log-probability a byte; of word problems, the
    last number that is generated.
    """

    task: str
    items: int
    original: Figure | None
    checkpoint: Figure | None
    engine: Figure | None


@dataclass(frozen=True, slots=True)
class LayerCost:
    """mean_kl: on the held-out text, of the original with this one decoder layer quantized."""

    layer: int
    mean_kl: float


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Original against quantized checkpoint against engine.

    held_out: None where there is neither a quantized checkpoint nor an engine.
    author: "original" or "engine", whose greedy answers the texts of `continuations` are; "" without answers.
    note: why something is missing, "" if nothing is.
    """

    held_out: TextsFigures | None
    author: str
    continuations: TextsFigures | None
    greedy: GenerationFigures | None
    sampled: GenerationFigures | None
    tasks: tuple[TaskFigures, ...]
    layers: tuple[LayerCost, ...]
    note: str

    @property
    def judged(self) -> TextFigures | None:
        """Held-out figures of what will be served, or of as much of it as there is."""
        texts = self.held_out
        return None if texts is None else texts.engine or texts.checkpoint

    @property
    def summary(self) -> str:
        """The cost in a line."""
        found = self.judged
        if found is None:
            return "nothing was quantized"
        return (
            f"KL {found.mean_kl.value:.2g}, top-1 {found.top1.value:.1%}, "
            f"perplexity {found.perplexity_ratio.value:.3g}x"
        )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def read_quality_report(value: object) -> QualityReport:
    """The report that `as_json` gave. Raises UsageError for what is none."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(QualityReport).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"report.json: stages.report.measured.{'.'.join(map(str, first['loc']))}: {first['msg']}",
            code="report-format",
            hint="build it again with this version",
        ) from None
