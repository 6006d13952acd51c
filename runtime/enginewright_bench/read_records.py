"""The requests of a load, read back from its `profile_export.jsonl`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from enginewright_errors import UsageError

from enginewright_bench.export_point import EXPORT_JSONL

__all__ = ["RecordRow", "read_records"]


@dataclass(frozen=True, slots=True)
class RecordRow:
    """One answered request that was not warm-up: its metrics, and the gaps between its messages in ms."""

    metrics: dict[str, float]
    gaps: list[float]


def read_records(folder: Path) -> list[RecordRow]:
    """The answered requests in `folder`. Raises UsageError naming the file that is missing or damaged."""
    path = folder / EXPORT_JSONL
    rows = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["metadata"]["benchmark_phase"] != "profiling" or record["error"] is not None:
                continue
            values = {name: metric["value"] for name, metric in record["metrics"].items()}
            gaps = values.pop("inter_chunk_latency", [])
            rows.append(RecordRow(values, gaps))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error!r}", code="damaged-result", hint="run the benchmark again"
        ) from None
    return rows
