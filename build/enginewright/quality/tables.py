"""A quality record as tables of text: the same for the terminal, for Markdown and for HTML."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from enginewright.quality.figures import (
    Figure,
    GenerationFigures,
    QualityReport,
    TextFigures,
    TextsFigures,
)
from enginewright.quality.gate import GateBounds
from enginewright.quality.record import QualityRecord

__all__ = ["Table", "quality_tables", "show", "show_percent"]

_NONE = "-"
_COSTLIEST = 5
_ROWS = (
    "perplexity",
    "perplexity / original's",
    "mean KL",
    "99% KL",
    "top-1 agreement",
    "top-5 agreement",
)
_MODELS = ("", "original", "quantized", "engine")


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def quality_tables(record: QualityRecord) -> list[Table]:
    """The tables of `record`; figures with their 95% intervals."""
    report = record.report
    tables = []
    if report.held_out is not None:
        title = f"Held-out text, {report.held_out.positions:,} positions"
        tables.append(_texts(title, report.held_out, record.bounds))
    if report.continuations is not None:
        title = f"Greedy answers of the {report.author}, {report.continuations.positions:,} positions"
        tables.append(_texts(title, report.continuations, None))
    tables += _generations(report)
    if report.tasks:
        rows = tuple(
            (
                f"{task.task}, {task.items} items",
                *map(show_percent, (task.original, task.checkpoint, task.engine)),
            )
            for task in report.tasks
        )
        tables.append(Table("Tasks, right answers", _MODELS, rows))
    if report.layers:
        costs = sorted(report.layers, key=lambda cost: -cost.mean_kl)[:_COSTLIEST]
        rows = tuple((str(cost.layer), f"{cost.mean_kl:.3g}") for cost in costs)
        tables.append(Table("Costliest layers, each quantized alone", ("layer", "mean KL"), rows))
    return tables


def show(figure: Figure | None) -> str:
    """Like "0.27 (0.23-0.31)"."""
    if figure is None:
        return _NONE
    return f"{_digits(figure.value)} ({_digits(figure.low)}-{_digits(figure.high)})"


def show_percent(figure: Figure | None) -> str:
    """Like "73.0% (67.3-78.4)"."""
    if figure is None:
        return _NONE
    return f"{figure.value:.1%} ({100 * figure.low:.1f}-{100 * figure.high:.1f})"


def _digits(value: float) -> str:
    """Three digits, zeros at the end included."""
    return f"{value:#.3g}".removesuffix(".")


def _texts(title: str, texts: TextsFigures, bounds: GateBounds | None) -> Table:
    columns = (*_MODELS, *(("gate",) if bounds else ()))
    quantized, engine = _column(texts.checkpoint), _column(texts.engine)
    original = (show(texts.perplexity), *[""] * (len(_ROWS) - 1))
    limits = [""] * len(_ROWS)
    if bounds is not None:
        limits[1:3] = f"at most {bounds.max_perplexity_ratio:.3g}", f"at most {bounds.max_kl:.3g}"
        limits[4] = f"at least {bounds.min_top1:.1%}"
    rows = zip(_ROWS, original, quantized, engine, limits, strict=True)
    return Table(title, columns, tuple(row[: len(columns)] for row in rows))


def _column(model: TextFigures | None) -> tuple[str, ...]:
    if model is None:
        return tuple(_NONE for _ in _ROWS)
    return (
        show(model.perplexity),
        show(model.perplexity_ratio),
        show(model.mean_kl),
        show(model.p99_kl),
        show_percent(model.top1),
        show_percent(model.top5),
    )


def _generations(report: QualityReport) -> Iterator[Table]:
    """Greedy and sampled answers in one table: they are as many, and as long."""
    kinds = [(name, made) for name, made in (("greedy", report.greedy), ("sampled", report.sampled)) if made]
    if kinds:
        made = kinds[0][1]
        rows = tuple(row for name, figures in kinds for row in _answers(name, figures))
        yield Table(f"{made.answers} answers of at most {made.tokens} tokens", _MODELS, rows)


def _answers(name: str, figures: GenerationFigures) -> Iterator[tuple[str, ...]]:
    models = (figures.checkpoint, figures.engine)
    loops = (figures.original_loop_rate, *(model.loop_rate if model else None for model in models))
    shared = (model.first_divergence if model else None for model in models)
    identical = (model.identical if model else None for model in models)
    yield (f"{name}: loops", *map(show_percent, loops))
    yield (f"{name}: tokens as the original's", "", *map(show, shared))
    yield (f"{name}: identical", "", *map(show_percent, identical))
