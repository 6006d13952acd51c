"""What a build says about its quality: report.json and manifest.json of its output folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import UsageError

from enginewright.output import MANIFEST, REPORT
from enginewright.quality.figures import QualityReport, read_quality_report
from enginewright.quality.gate import GateBounds

__all__ = ["QualityRecord", "read_record"]


@dataclass(frozen=True, slots=True)
class QualityRecord:
    """engine_bytes, source_bytes: weights. rejected: what the gate said, "" for a build that passed."""

    name: str
    source: str
    format: str
    group_size: int | None
    source_bytes: int
    engine_bytes: int
    bounds: GateBounds
    report: QualityReport
    rejected: str

    @property
    def quantization(self) -> str:
        """Like "int4_awq, groups of 64"."""
        return self.format + (f", groups of {self.group_size}" if self.format == "int4_awq" else "")


def read_record(folder: Path) -> QualityRecord:
    """The record of the build, or of the rejected one, in `folder`. Raises UsageError where there is none."""
    manifest, report = _read(folder / MANIFEST), _read(folder / REPORT)
    rejected = report.get("rejected", {}).get("message", "")
    try:
        quantization = manifest["recipe"]["quantization"]
        return QualityRecord(
            name=manifest["name"],
            source=manifest["chain"]["source"]["name"],
            format=quantization["format"],
            group_size=quantization["group_size"],
            source_bytes=manifest["plan"]["sizes"]["source_bytes"],
            engine_bytes=manifest["plan"]["sizes"]["weight_bytes"],
            bounds=GateBounds(**report["gate"]),
            report=read_quality_report(report["stages"]["report"]["measured"]),
            rejected=rejected,
        )
    except (KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{folder / REPORT} has no quality report" + (f": {rejected}" if rejected else ""),
            code="no-quality-report",
            hint="the build ended before it was measured: build it again",
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}",
            code="no-repository",
            hint="give the output folder of a build, or its .rejected",
        ) from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise UsageError(f"{path} is not a JSON object", code="report-format", hint="build it again")
    return value
