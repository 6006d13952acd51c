"""One HTML page of a result: tables, plots as SVG inside it, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from enginewright_bench.export_point import run_line
from enginewright_bench.plots import PLOTS, draw_plots
from enginewright_bench.published_speeds import SPEED_COLUMNS, SPEED_TITLE, speed_rows
from enginewright_bench.result import BenchResult, read_result
from enginewright_bench.result_table import COLUMNS, limit_text, result_rows, search_text
from enginewright_bench.server_metrics import totals_text

__all__ = ["REPORT", "write_report"]

REPORT = "report.html"

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
table { border-collapse: collapse; font-size: 0.87em } .wide { overflow-x: auto }
th, td { padding: 0.25em 0.6em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } td.text { text-align: left; white-space: normal }
.warning { background: #fff4d6; padding: 0.4em 0.8em; margin: 0.3em 0 }
th.text { text-align: left }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28em), 1fr)); gap: 1em 2em }
figure { margin: 0.5em 0 } svg { width: 100%; height: auto }
"""
_TEXT_COLUMNS = ("is", "why", "the first one's message", "value")
_DEFINITIONS = (
    (
        "answered",
        "requests with a complete answer, of those that were sent; latencies are p50/p95/p99 of them",
    ),
    ("TTFT", "from the scheduled start of a request to the first message with text"),
    ("ITL", "(latency - TTFT) / (output tokens - 1), one value for each request"),
    ("latency", "from the scheduled start to the last message"),
    ("tokens/s", "output tokens of the answered requests over the whole duration, failures included"),
    ("a user", "tokens a second, 1 / ITL, median"),
    ("good", "the share of all requests that was within the service level"),
    ("of limit", "tokens/s of what memory bandwidth allows at the load's mean concurrency and context"),
    ("decoding", "the shortest possible step over the median ITL: the same without prefill and waiting"),
    ("above 100%", "tokens that an engine drafts from the text before them share a step"),
)


def write_report(folder: Path) -> Path:
    """Draw `plots/NAME.svg` and write `report.html` from the files in `folder`; returns the page.

    Raises UsageError for a folder without a result. Needs matplotlib.
    """
    result = read_result(folder)
    plots = draw_plots(result, folder)
    (folder / "plots").mkdir(exist_ok=True)
    for name, svg in plots.items():
        (folder / "plots" / f"{name}.svg").write_text(svg, encoding="utf-8")
    page = folder / REPORT
    page.write_text("\n".join(_page(result, plots)), encoding="utf-8")
    return page


def _page(result: BenchResult, plots: dict[str, str]) -> Iterable[str]:
    build = result.provenance.build
    title = f"Benchmark of {build.name if build else result.server.model} at {result.server.address}"
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
    yield f"<style>{_STYLE}</style><h1>{escape(title)}</h1>"
    yield f"<p>{escape(result.started)}, seed {result.provenance.seed}, run {escape(result.benchmark_id)}</p>"
    if not result.complete:
        yield "<p class=warning>This run was stopped before its end.</p>"
    for point in result.points:
        for warning in point.warnings:
            yield f"<p class=warning>{escape(point.label)}: {escape(warning)}</p>"
    yield f"<p>{escape(limit_text(result))}</p>"
    if result.search is not None:
        yield f"<p><b>{escape(search_text(result))}</b></p>"
    yield from _table(COLUMNS, result_rows(result.points))
    if published := speed_rows(result.points):
        yield f"<h2>{escape(SPEED_TITLE)}</h2>"
        yield from _table(SPEED_COLUMNS, published)
    failures = [
        (point.label, cause.code, str(cause.count), cause.message)
        for point in result.points
        for cause in point.failures
    ]
    if failures:
        yield "<h2>Failures by cause</h2>"
        yield from _table(("load", "cause", "requests", "the first one's message"), failures)
    if result.skipped:
        yield "<h2>Not run</h2>"
        yield from _table(("load", "why"), [(row.label, row.reason) for row in result.skipped])
    yield "<div class=plots>"
    for name, svg in plots.items():
        yield f"<figure aria-label='{escape(PLOTS[name])}'>{svg[svg.index('<svg') :]}</figure>"
    yield "</div>"
    yield from _token_section(result)
    yield "<h2>What the figures mean</h2>"
    yield f"<p>Latencies count from {escape(result.latency_from)}.</p>"
    yield from _table(("figure", "is"), _DEFINITIONS)
    yield "<h2>What was run, on what</h2>"
    facts = [*run_line(result).items(), *((f"--{name}", value) for name, value in result.settings.items())]
    yield from _table(
        ("setting", "value"), [(name, _text(value)) for name, value in facts if value is not None]
    )
    yield "</html>"


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _token_section(result: BenchResult) -> Iterable[str]:
    rows = []
    for point in result.points:
        tokens, totals = point.tokens, point.server_totals
        encoded = "-" if tokens.retokenized is None else f"{tokens.retokenized} of {tokens.counted}"
        agreed = "-" if totals is None else totals_text(totals)
        client = point.client.cpu_us_per_message
        late = point.metrics.get("send_lateness")
        rows.append(
            (
                point.label,
                str(tokens.input_mismatches),
                str(tokens.short_answers),
                encoded,
                agreed,
                "-" if late is None else f"{late.p99:.2f}",
                f"{point.client.cpu_share:.0%}",
                "-" if client is None else f"{client:.0f}",
            )
        )
    yield "<h2>Checks</h2>"
    yield from _table(
        (
            "load",
            "prompts of another length",
            "short answers",
            "tokens encoded again",
            "server's counts agree",
            "late, p99 ms",
            "client, of a core",
            "µs a message",
        ),
        rows,
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    last = " class=text" if columns[-1] in _TEXT_COLUMNS else ""
    yield "<div class=wide><table>"
    for tag, row in (("th", columns), *(("td", row) for row in rows)):
        cells = [f"<{tag}>{escape(cell)}</{tag}>" for cell in row[:-1]]
        yield f"<tr>{''.join(cells)}<{tag}{last}>{escape(row[-1])}</{tag}></tr>"
    yield "</table></div>"
