"""The files of one load, laid out and named as aiperf does (0.13, schema 1.4), so that its readers read them.

    inputs.json                 what was sent, by session id
    profile_export.jsonl        a line for each request: metadata, metrics, error
    profile_export_aiperf.json  the metrics of the load
    profile_export_aiperf.csv   the same as a table

Each file says what it depends on: `enginewright` in the JSON files, `run` in each line, a section of the CSV.
inputs.json leaves out what differs between two runs of the same load, so that the same seed gives the same
bytes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from enginewright_bench.metric_names import METRICS, OF_REQUESTS
from enginewright_bench.record import RequestRecord
from enginewright_bench.request_metrics import chunk_gaps, request_metrics
from enginewright_bench.result import BenchResult, Point
from enginewright_bench.send_request import BenchRequest
from enginewright_bench.summary import PERCENTILES, Summary

__all__ = ["EXPORT_CSV", "EXPORT_JSON", "EXPORT_JSONL", "INPUTS", "export_point", "run_line"]

INPUTS = "inputs.json"
EXPORT_JSONL = "profile_export.jsonl"
EXPORT_JSON = "profile_export_aiperf.json"
EXPORT_CSV = "profile_export_aiperf.csv"
_SCHEMA_VERSION = "1.4"
_STATISTICS = ("avg", "min", "max", "sum", *(f"p{percent}" for percent in PERCENTILES), "std")


def export_point(
    result: BenchResult,
    point: Point,
    requests: Sequence[BenchRequest],
    records: Sequence[RequestRecord],
    folder: Path,
) -> None:
    """Write the files of `point` into `folder / point.folder`. result: of the run so far."""
    target = folder / point.folder
    target.mkdir(parents=True, exist_ok=True)
    _write_json(target / INPUTS, _inputs(result, requests))
    lines = (_line(result, point, record) for record in records)
    (target / EXPORT_JSONL).write_text("".join(lines), encoding="utf-8")
    _write_json(target / EXPORT_JSON, _summary(result, point, records))
    (target / EXPORT_CSV).write_text(_table(result, point), encoding="utf-8")


def run_line(result: BenchResult, point: Point | None = None) -> dict[str, Any]:
    """What a file of this run depends on, in a line: versions, machine, build, seed, the limit reached."""
    provenance = result.provenance
    machine = provenance.machine
    build = provenance.build
    line: dict[str, Any] = {
        "benchmark_id": result.benchmark_id,
        "versions": provenance.versions,
        "commit": provenance.commit,
        "machine": f"{machine.host}: {machine.cores} x {machine.processor}",
        "gpus": [gpu["name"] for gpu in machine.gpus],
        "build": build and build.name,
        "manifest_sha256": build and build.manifest_sha256,
        "recipe_sha256": build and build.recipe_sha256,
        "seed": provenance.seed,
    }
    if point is not None:
        limit = point.limit
        line["limit_tokens_per_second"] = limit and limit.tokens_per_second
        line["limit_share"] = limit and limit.share
    return line


def _inputs(result: BenchResult, requests: Sequence[BenchRequest]) -> dict[str, Any]:
    provenance = asdict(result.provenance)
    sessions = [
        {"session_id": _session(request.index), "payloads": [_payload(result.server.model, request)]}
        for request in requests
    ]
    return {"data": sessions, "enginewright": provenance}


def _session(index: int) -> str:
    return f"session_{index:06d}"


def _payload(model: str, request: BenchRequest) -> dict[str, Any]:
    prompt = request.prompt
    sampling = {
        name: value for name, value in asdict(request.sampling).items() if value not in (None, (), False)
    }
    asked: dict[str, Any] = {"text_input": prompt}
    if not isinstance(prompt, str):
        asked = {"messages": [dict(message) for message in prompt]}
    return {"model": model, **asked, "stream": True, **sampling}


def _line(result: BenchResult, point: Point, record: RequestRecord) -> str:
    values: dict[str, Any] = dict(request_metrics(record))
    if gaps := (chunk_gaps(record) if record.failure is None else []):
        values["inter_chunk_latency"] = gaps
    failure = record.failure
    line = {
        "metadata": {
            "session_num": record.index,
            "x_request_id": record.request_id,
            "conversation_id": _session(record.index),
            "turn_index": 0,
            "credit_issued_ns": record.scheduled_ns,
            "request_start_ns": record.start_ns,
            "request_ack_ns": record.text_ns[0] if record.text_ns else None,
            "request_end_ns": record.end_ns,
            "worker_id": "enginewright",
            "record_processor_id": "enginewright",
            "benchmark_phase": record.phase,
            "was_cancelled": record.finish_reason == "cancelled",
        },
        "metrics": {tag: {"value": value, "unit": OF_REQUESTS[tag][1]} for tag, value in values.items()},
        "error": failure and {"code": None, "type": failure.code, "message": failure.message},
        "run": run_line(result, point),
    }
    return json.dumps(line) + "\n"


def _summary(result: BenchResult, point: Point, records: Sequence[RequestRecord]) -> dict[str, Any]:
    return {
        "schema_version": _SCHEMA_VERSION,
        "benchmark_id": result.benchmark_id,
        **{tag: _given(summary) for tag, summary in point.metrics.items()},
        "was_cancelled": False,
        "is_complete": True,
        "error_summary": [
            {
                "error_details": {"code": None, "type": cause.code, "message": cause.message},
                "count": cause.count,
            }
            for cause in point.failures
        ],
        "start_time": _time(min(record.scheduled_ns for record in records)),
        "end_time": _time(max(record.end_ns for record in records)),
        "enginewright": {
            **run_line(result, point),
            "point": point.model_dump(exclude={"metrics"}),
            "latency_from": result.latency_from,
            "settings": result.settings,
        },
    }


def _given(summary: Summary) -> dict[str, Any]:
    return {name: value for name, value in asdict(summary).items() if value is not None}


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, timezone.utc).isoformat()


def _table(result: BenchResult, point: Point) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["Metric", *_STATISTICS])
    for tag in sorted(OF_REQUESTS.keys() & point.metrics.keys()):
        summary = asdict(point.metrics[tag])
        writer.writerow([_header(tag), *(_cell(summary[name]) for name in _STATISTICS)])
    writer.writerow([])
    writer.writerow(["Metric", "Value"])
    for tag in sorted(point.metrics.keys() - OF_REQUESTS.keys()):
        writer.writerow([_header(tag), _cell(point.metrics[tag].avg)])
    writer.writerow([])
    writer.writerow(["Run", "Value"])
    writer.writerows(_flat(run_line(result, point)))
    return text.getvalue()


def _header(tag: str) -> str:
    name, unit = METRICS[tag]
    return name if unit == "requests" else f"{name} ({unit})"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _flat(line: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in line.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", str(inner)) for name, inner in value.items())
        else:
            yield key, "" if value is None else str(value)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
