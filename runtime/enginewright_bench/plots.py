"""The plots of a result, drawn from its files alone, as SVG."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from enginewright_bench.export_point import run_line
from enginewright_bench.read_records import read_records
from enginewright_bench.result import BenchResult, Point

__all__ = ["PLOTS", "draw_plots"]

_SIZE = (6.4, 3.8)
_PERCENTILES = ("p50", "p90", "p95", "p99")

PLOTS = {
    "latency": "Latency percentiles against load",
    "frontier": "Throughput against the speed of one user",
    "ttft": "Time to first token against input length",
    "timeline": "Inter-token times along the answer",
}
"""Titles by the name of the file."""


def draw_plots(result: BenchResult, folder: Path) -> dict[str, str]:
    """SVG by name, of those of `PLOTS` that the result has data for. folder: where its files are."""
    points = [point for point in result.points if "request_latency" in point.metrics]
    if not points:
        return {}
    drawers: dict[str, Callable[[Any], None]] = {
        "latency": lambda figure: _latency(figure, points),
        "frontier": lambda figure: _frontier(figure, result, points),
    }
    inputs = [point.metrics["input_sequence_length"] for point in points]
    if len({length for summary in inputs for length in (summary.min, summary.max)}) > 1:
        drawers["ttft"] = lambda figure: _first_token(figure, points, folder)
    drawers["timeline"] = lambda figure: _timeline(figure, points, folder)
    return {name: _svg(result, PLOTS[name], draw) for name, draw in drawers.items()}


def _svg(result: BenchResult, title: str, draw: Callable[[Any], None]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    # The same result gives the same bytes, and texts stay texts.
    with matplotlib.rc_context({"svg.hashsalt": result.benchmark_id, "svg.fonttype": "none"}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        draw(figure)
        figure.axes[0].set_title(title, loc="left", fontsize=10)
        text = io.StringIO()
        about = {"Date": None, "Title": title, "Description": json.dumps(run_line(result))}
        figure.savefig(text, format="svg", metadata=about)
    return text.getvalue()


def _load_axis(axes: Any, points: Sequence[Point]) -> list[float]:
    """Positions of the points on the x axis: their load where all have one of a kind, else their labels."""
    for field, name in (("concurrency", "concurrent requests"), ("request_rate", "requests a second")):
        values = [getattr(point, field) for point in points]
        if all(value is not None for value in values) and len(set(values)) == len(values):
            axes.set_xlabel(name)
            axes.set_xscale("log", base=2)
            axes.set_xticks(values, [f"{value:.3g}" for value in values])
            axes.minorticks_off()
            return [float(value) for value in values]
    axes.set_xticks(range(len(points)), [point.label for point in points], rotation=20)
    return [float(position) for position in range(len(points))]


def _latency(figure: Any, points: Sequence[Point]) -> None:
    left, right = figure.subplots(1, 2)
    for axes, tag, name in (
        (left, "time_to_first_token", "first token, ms"),
        (right, "inter_token_latency", "inter-token, ms"),
    ):
        shown = sorted(
            (point for point in points if tag in point.metrics),
            key=lambda point: point.concurrency or point.request_rate or 0,
        )
        if not shown:
            continue
        places = _load_axis(axes, shown)
        for percentile in _PERCENTILES:
            values = [getattr(point.metrics[tag], percentile) for point in shown]
            axes.plot(places, values, marker="o", markersize=3, label=percentile)
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)


def _frontier(figure: Any, result: BenchResult, points: Sequence[Point]) -> None:
    axes = figure.subplots()
    shown = [point for point in points if "output_token_throughput_per_user" in point.metrics]
    users = [point.metrics["output_token_throughput_per_user"].p50 for point in shown]
    totals = [point.metrics["output_token_throughput"].avg for point in shown]
    axes.plot(users, totals, marker="o", label="measured")
    for point, user, total in zip(shown, users, totals, strict=True):
        load = point.label.rpartition("-")[2]
        axes.annotate(load, (user, total), textcoords="offset points", xytext=(4, 4), fontsize=7)
    limits = [point.limit for point in shown if point.limit is not None]
    if limits:
        axes.plot(
            [limit.tokens_per_second / limit.streams for limit in limits],
            [limit.tokens_per_second for limit in limits],
            marker="x",
            linestyle=":",
            color="gray",
            label="limit of the memory",
        )
    axes.set_xlabel("output tokens/s of one user (median)")
    axes.set_ylabel("output tokens/s in all")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _first_token(figure: Any, points: Sequence[Point], folder: Path) -> None:
    axes = figure.subplots()
    for point in points:
        answered = [
            row for row in read_records(folder / point.folder) if "time_to_first_token" in row.metrics
        ]
        axes.scatter(
            [row.metrics["input_sequence_length"] for row in answered],
            [row.metrics["time_to_first_token"] for row in answered],
            s=10,
            alpha=0.6,
            label=point.label,
        )
    axes.set_xlabel("tokens of the prompt")
    axes.set_ylabel("time to first token, ms")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def _timeline(figure: Any, points: Sequence[Point], folder: Path) -> None:
    """Of each load the median gap at each place in the answer."""
    import numpy as np

    axes = figure.subplots()
    for point in points:
        rows = [row.gaps for row in read_records(folder / point.folder) if row.gaps]
        length = max((len(gaps) for gaps in rows), default=0)
        medians = [
            float(np.median([gaps[place] for gaps in rows if place < len(gaps)])) for place in range(length)
        ]
        axes.plot(range(2, length + 2), medians, linewidth=0.9, label=point.label)
    axes.set_xlabel("message of the answer (about a token each)")
    axes.set_ylabel("gap before it, ms (median)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
