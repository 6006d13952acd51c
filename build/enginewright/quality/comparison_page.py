"""A comparison as tables and as an HTML page. All numbers are the comparison's."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from enginewright.quality.comparison import Comparison, ComparisonRow
from enginewright.quality.decode_speed import DecodeSpeed
from enginewright.quality.figures import TextFigures, TextsFigures
from enginewright.quality.html_page import html_page, html_table
from enginewright.quality.svg import Point, scatter_chart
from enginewright.quality.tables import Table, show, show_percent
from enginewright.units import format_bytes, format_seconds

__all__ = ["comparison_html", "comparison_tables"]

_NONE = "-"
_COLUMNS = (
    "",
    "weights",
    "mean KL",
    "top-1",
    "perplexity",
    "KL of answers",
    "tokens/s",
    "streams at once",
)


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Engines side by side; and, with INT4, what calibration earned."""
    tables = [Table("Engines against the original", _COLUMNS, tuple(map(_engine, comparison.rows)))]
    tables += _tasks(comparison)
    if comparison.rounding is not None:
        calibrated = [row for row in comparison.rows if row.format == "int4_awq" and not row.failed]
        rows = [
            _checkpoint(row.label, row.report.held_out if row.report else None, row) for row in calibrated
        ]
        rows.append(_checkpoint("plain rounding", comparison.rounding, None))
        title = f"INT4 checkpoints, groups of {comparison.group_size}, on the same text"
        tables.append(Table(title, ("", "mean KL", "top-1", "perplexity", "quantized in"), tuple(rows)))
    return tables


def comparison_html(comparison: Comparison) -> str:
    """One self-contained page."""
    size = format_bytes(comparison.source_bytes)
    intro = (
        f"{comparison.source}, {size} of weights. Figures of engines against the original checkpoint on "
        "held-out text, with 95% bootstrap intervals; perplexity as a multiple of the original's; tokens a "
        "second are medians of rounds in turns, in one process, with the slowest and the fastest."
    )
    points = [
        Point(row.label, row.weight_bytes / 2**20, kl.value, kl.low, kl.high)
        for row in comparison.rows
        if row.report is not None and row.report.judged is not None
        for kl in [row.report.judged.mean_kl]
    ]
    body = [f"<p>{escape(text)}</p>" for text in (intro, comparison.note) if text]
    if points:
        body.append(scatter_chart(points, x="weights, MiB", y="mean KL, nats"))
    return html_page(
        f"{comparison.source}: formats compared", [*body, *map(html_table, comparison_tables(comparison))]
    )


def _tasks(comparison: Comparison) -> Iterator[Table]:
    """A row a build, a column a task: all builds were asked the same."""
    asked = [(row.label, row.report.tasks) for row in comparison.rows if row.report is not None]
    if not asked or not asked[0][1]:
        return
    first = asked[0][1]
    rows = [("original", *(show_percent(task.original) for task in first))]
    rows += [(label, *(show_percent(task.engine) for task in tasks)) for label, tasks in asked]
    columns = ("", *(f"{task.task}, {task.items} items" for task in first))
    yield Table("Tasks, right answers", columns, tuple(rows))


def _engine(row: ComparisonRow) -> tuple[str, ...]:
    report = row.report
    if report is None or report.judged is None:
        return (row.label, row.failed or _NONE, *[""] * (len(_COLUMNS) - 2))
    answers = report.continuations.engine if report.continuations else None
    return (
        row.label,
        format_bytes(row.weight_bytes),
        *_quality(report.judged),
        show(answers.mean_kl) if answers else _NONE,
        _speed(row.one),
        f"{row.several.streams}: {_speed(row.several)}" if row.several else _NONE,
    )


def _checkpoint(label: str, texts: TextsFigures | None, row: ComparisonRow | None) -> tuple[str, ...]:
    time = format_seconds(row.quantize_seconds) if row else _NONE
    if texts is None or texts.checkpoint is None:
        return (label, _NONE, _NONE, _NONE, time)
    return (label, *_quality(texts.checkpoint), time)


def _quality(figures: TextFigures) -> tuple[str, str, str]:
    return show(figures.mean_kl), show_percent(figures.top1), show(figures.perplexity_ratio)


def _speed(speed: DecodeSpeed | None) -> str:
    return f"{speed.median:.0f} ({speed.slowest:.0f}-{speed.fastest:.0f})" if speed else _NONE
