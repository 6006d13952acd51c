"""Builds of one checkpoint side by side: size, quality, speed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from enginewright_errors import GateFailed

from enginewright.cache import default_cache_folder
from enginewright.checkpoint import open_checkpoint
from enginewright.limits import resolve_limits
from enginewright.machine import available_memory
from enginewright.output import REPORT
from enginewright.pipeline import build
from enginewright.progress import Reporter
from enginewright.quality.decode_speed import DecodeSpeed, decode_speeds
from enginewright.quality.figures import QualityReport, TextsFigures
from enginewright.quality.record import read_record
from enginewright.quality.rounding import plain_rounding_cost
from enginewright.quality.texts import load_report_texts
from enginewright.quality.variants import Variant
from enginewright.source import resolve_source
from enginewright.units import format_bytes

__all__ = ["Comparison", "ComparisonRow", "compare"]

_STREAMS = 8
_OVERHEAD = 1.2  # memory of a loaded engine over its weights


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One build. failed: what `verify` said, "" if nothing; then there is nothing else.

    weight_bytes: of the engine. quantize_seconds: when it was made. one, several: decode speeds.
    """

    label: str
    format: str
    failed: str = ""
    weight_bytes: int = 0
    quantize_seconds: float = 0.0
    report: QualityReport | None = None
    one: DecodeSpeed | None = None
    several: DecodeSpeed | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """source_bytes: of the original's weights. rounding: of plain INT4 rounding; None without int4_awq.

    note: why something is missing, "" if nothing is.
    """

    source: str
    source_bytes: int
    group_size: int
    rows: tuple[ComparisonRow, ...]
    rounding: TextsFigures | None
    note: str

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def compare(
    variants: Sequence[Variant], output: Path, reporter: Reporter, *, read_bandwidth: float | None = None
) -> Comparison:
    """Build every variant into a folder below `output`, and measure what the builds did not.

    Raises what `build` raises, but for the gate of `verify`: a build that fails it has a row that says so.
    """
    rows = [_build(variant, output, reporter, read_bandwidth) for variant in variants]
    with reporter.stage("decode") as line:
        rows, note = _with_speeds(rows, [output / variant.recipe.name for variant in variants])
        line.verb, line.note = "measured", note or f"{len(rows)} engines in turns"
    recipe, rounding = variants[0].recipe, None
    source = resolve_source(recipe.checkpoint, default_cache_folder())
    checkpoint = open_checkpoint(source.folder)
    if any(row.format == "int4_awq" for row in rows):
        with reporter.stage("rounding") as line:
            limit = resolve_limits(recipe, checkpoint.spec).max_seq_len
            held_out = load_report_texts(recipe.report, source.folder, limit).held_out
            rounding = plain_rounding_cost(source.folder, held_out, recipe.quantization.group_size)
            line.verb, line.note = "measured", "INT4 without calibration"
    return Comparison(
        source.name, checkpoint.weight_bytes, recipe.quantization.group_size, tuple(rows), rounding, note
    )


def _build(variant: Variant, output: Path, reporter: Reporter, read_bandwidth: float | None) -> ComparisonRow:
    recipe = variant.recipe
    folder, row = output / recipe.name, ComparisonRow(variant.label, recipe.quantization.format)
    try:
        build(recipe, folder, reporter=reporter, read_bandwidth=read_bandwidth)
    except GateFailed as error:
        reporter.warn(f"{variant.label}: {error.message}")
        return replace(row, failed=error.message)
    record = read_record(folder)
    stages = json.loads((folder / REPORT).read_bytes())["stages"]
    return replace(
        row,
        weight_bytes=record.engine_bytes,
        quantize_seconds=stages["quantize"]["seconds"],
        report=record.report,
    )


def _with_speeds(rows: Sequence[ComparisonRow], folders: Sequence[Path]) -> tuple[list[ComparisonRow], str]:
    """Rows with decode speeds, or as they were with the reason."""
    needed = int(_OVERHEAD * sum(row.weight_bytes for row in rows))
    available = available_memory()
    if needed > available:
        return list(rows), (
            f"no decode speeds: all engines at once need {format_bytes(needed)} of memory, "
            f"{format_bytes(available)} are available"
        )
    sound = [index for index, row in enumerate(rows) if not row.failed]
    engines = [folders[index] / "llm" / "1" / "engine" for index in sound]
    one, several = (decode_speeds(engines, streams) for streams in (1, _STREAMS))
    speeds = dict(zip(sound, zip(one, several, strict=True), strict=True))
    return [
        replace(row, one=speeds[index][0], several=speeds[index][1]) if index in speeds else row
        for index, row in enumerate(rows)
    ], ""
