"""Two runs side by side: ratios, each with the interval that its requests allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from enginewright_errors import UsageError
from numpy.typing import NDArray

from enginewright_bench.read_records import RecordRow, read_records
from enginewright_bench.result import Point, read_result

__all__ = ["Comparison", "Ratio", "compare_runs"]

_RESAMPLES = 2000
_INTERVAL = (2.5, 97.5)
_SEED = 20_250_305

Rows = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ratio:
    """`second / first` of one figure of one load, and the 95 % interval of that ratio.

    clear: the interval does not contain 1.
    """

    load: str
    figure: str
    first: float
    second: float
    ratio: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        return not self.low <= 1 <= self.high


@dataclass(frozen=True, slots=True)
class Comparison:
    """unmatched: loads that only one of the two has. differences: what the runs do not have in common."""

    first: str
    second: str
    ratios: list[Ratio]
    unmatched: list[str]
    differences: list[str]

    def as_json(self) -> dict[str, Any]:
        ratios = [{**asdict(ratio), "clear": ratio.clear} for ratio in self.ratios]
        return {**asdict(self), "ratios": ratios}


def compare_runs(first: Path, second: Path) -> Comparison:
    """Compare the loads that both folders have, by label.

    Each figure is computed again for 2,000 resamples of the requests of each run (bootstrap percentile
    interval): how much the requests of a run differ, not how much runs do; repeat a run to see that.
    The throughput of a resample follows its tokens and times at the concurrency of its run.
    Raises UsageError for folders without a result, and if no load is in both.
    """
    results = [read_result(first), read_result(second)]
    labels = [{point.label: point for point in result.points} for result in results]
    shared = [label for label in labels[0] if label in labels[1]]
    if not shared:
        raise UsageError(
            f"{first} and {second} have no load in common",
            code="nothing-to-compare",
            hint=f"they have {', '.join(labels[0]) or 'none'} and {', '.join(labels[1]) or 'none'}",
        )
    ratios = []
    for label in shared:
        points = [labels[0][label], labels[1][label]]
        rows = [read_records(first / points[0].folder), read_records(second / points[1].folder)]
        if all(rows):
            ratios += _ratios(label, points, rows)
    return Comparison(
        first=str(first),
        second=str(second),
        ratios=ratios,
        unmatched=sorted(labels[0].keys() ^ labels[1].keys()),
        differences=_differences(results),
    )


def _ratios(label: str, points: Sequence[Point], rows: Sequence[list[RecordRow]]) -> list[Ratio]:
    found = []
    rng = np.random.default_rng(_SEED)
    picks = [rng.integers(len(row), size=(_RESAMPLES, len(row))) for row in rows]
    for tag, short in (
        ("time_to_first_token", "TTFT"),
        ("inter_token_latency", "ITL"),
        ("request_latency", "latency"),
    ):
        if not all(row.metrics.get(tag, 0.0) > 0 for run in rows for row in run):
            continue  # a figure that some requests do not have
        columns = [np.array([[row.metrics[tag]] for row in run]) for run in rows]
        for name, figure in (("mean", _mean), ("p50", _median), ("p95", _p95)):
            found.append(_ratio(label, f"{short} {name}, ms", columns, picks, figure, (1.0, 1.0)))
    columns = [
        np.array([[row.metrics["output_sequence_length"], row.metrics["request_latency"]] for row in run])
        for run in rows
    ]
    scales = [
        point.metrics["output_token_throughput"].avg / float(_speed(column))
        for point, column in zip(points, columns, strict=True)
    ]
    found.append(_ratio(label, "output tokens/s", columns, picks, _speed, (scales[0], scales[1])))
    return found


def _ratio(
    label: str,
    name: str,
    columns: Sequence[Rows],
    picks: Sequence[NDArray[np.int64]],
    figure: Callable[[Rows], Any],
    scales: tuple[float, float],
) -> Ratio:
    """columns: [N, K] of each run. picks: [R, N] rows of each resample. `figure` works on axis -2."""
    values = [float(figure(column)) * scale for column, scale in zip(columns, scales, strict=True)]
    drawn = [figure(column[pick]) * scale for column, pick, scale in zip(columns, picks, scales, strict=True)]
    low, high = np.percentile(drawn[1] / drawn[0], _INTERVAL)
    return Ratio(label, name, values[0], values[1], values[1] / values[0], float(low), float(high))


def _mean(rows: Rows) -> Any:
    return rows[..., 0].mean(axis=-1)


def _median(rows: Rows) -> Any:
    return np.median(rows[..., 0], axis=-1)


def _p95(rows: Rows) -> Any:
    return np.percentile(rows[..., 0], 95, axis=-1)


def _speed(rows: Rows) -> Any:
    return rows[..., 0].sum(axis=-1) / rows[..., 1].sum(axis=-1)


def _differences(results: Sequence[Any]) -> list[str]:
    """Why the two may not be comparable."""
    first, second = (result.provenance for result in results)
    named = {
        "seed": (first.seed, second.seed),
        "commit": (first.commit, second.commit),
        "manifest": (
            first.build and first.build.manifest_sha256[:16],
            second.build and second.build.manifest_sha256[:16],
        ),
        "processor": (first.machine.processor, second.machine.processor),
        "cores": (first.machine.cores, second.machine.cores),
        **{
            name: (first.versions.get(name), second.versions.get(name))
            for name in sorted(first.versions.keys() | second.versions.keys())
        },
    }
    settings = (results[0].settings, results[1].settings)
    for name in sorted(settings[0].keys() | settings[1].keys()):
        named[f"--{name}"] = (settings[0].get(name), settings[1].get(name))
    return [f"{name}: {a} and {b}" for name, (a, b) in named.items() if a != b]
