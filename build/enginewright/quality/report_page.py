"""A quality record as an HTML page and as Markdown. All numbers are the record's."""

from __future__ import annotations

from html import escape

from enginewright.quality.figures import TextsFigures
from enginewright.quality.html_page import html_page, html_table
from enginewright.quality.markdown import markdown_tables
from enginewright.quality.record import QualityRecord
from enginewright.quality.svg import Bar, Line, bar_chart, line_chart
from enginewright.quality.tables import quality_tables
from enginewright.units import format_bytes

__all__ = ["report_html", "report_markdown", "verdict"]

_INTRO = (
    "Original: the checkpoint in float32. Quantized: what ModelOpt exported, dequantized exactly. "
    "Engine: what is served. With 95% bootstrap intervals, over blocks of 32 positions, answers or items."
)


def report_html(record: QualityRecord) -> str:
    """One self-contained page."""
    body = [f"<p>{escape(_built(record))}</p>"]
    state = "fail" if record.rejected else "pass"
    body.append(f'<p class="{state}">{escape(verdict(record))}</p>')
    body += [f"<p>{escape(text)}</p>" for text in (_INTRO, record.report.note) if text]
    for table in quality_tables(record):
        body.append(html_table(table))
        if table.title.startswith("Held-out") and record.report.held_out is not None:
            body.append(_kl_chart(record.report.held_out))
        if table.title.startswith("Greedy") and record.report.continuations is not None:
            body.append(_kl_chart(record.report.continuations))
    if record.report.layers:
        bars = [Bar(str(cost.layer), cost.mean_kl) for cost in record.report.layers]
        body.append(bar_chart(bars, x="decoder layer, quantized alone", y="mean KL, nats"))
    return html_page(f"{record.name}: what quantization cost", body)


def report_markdown(record: QualityRecord) -> str:
    """A section for a model card."""
    intro = f"{_built(record)} {verdict(record)} {_INTRO} {record.report.note}"
    return markdown_tables("Quantization quality", intro, quality_tables(record))


def verdict(record: QualityRecord) -> str:
    """The gate's word."""
    return f"Rejected: {record.rejected}." if record.rejected else "The gate held."


def _built(record: QualityRecord) -> str:
    before, after = format_bytes(record.source_bytes), format_bytes(record.engine_bytes)
    return f"{record.source} as {record.quantization}: {before} of weights became {after}."


def _kl_chart(texts: TextsFigures) -> str:
    lines = [
        Line(label, [(5.0 * step, value) for step, value in enumerate(model.kl_quantiles)])
        for label, model in (("quantized", texts.checkpoint), ("engine", texts.engine))
        if model is not None
    ]
    return line_chart(lines, x="% of positions", y="KL at most, nats")
