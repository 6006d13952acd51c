"""What Qwen published for a model of QwQ-32B's geometry, to lay beside `--profile qwen-speed`.

Qwen2.5-32B-Instruct, vLLM on one A100-80 (BF16 from 30720 tokens on two), one request at a time, 2048 new
tokens; tokens a second of the whole request, prefill included.
Source: qwen.readthedocs.io, "Qwen2.5 Speed Benchmark".
"""

from __future__ import annotations

from collections.abc import Sequence

from enginewright_bench.result import Point

__all__ = ["SPEED_COLUMNS", "SPEED_TITLE", "speed_rows"]

SPEED_TITLE = "Beside what Qwen published for Qwen2.5-32B (vLLM, one A100-80; * two), tokens/s"
SPEED_COLUMNS = ("load", "measured", "BF16", "GPTQ-Int8", "GPTQ-Int4", "AWQ")
_PUBLISHED = {
    "input-1": ("22.13", "37.57", "55.83", "51.92"),
    "input-6144": ("21.05", "34.67", "49.96", "46.68"),
    "input-14336": ("19.91", "31.89", "44.79", "41.83"),
    "input-30720": ("31.82*", "26.88", "35.66", "33.75"),
    "input-63488": ("24.45*", "18.60", "22.72", "21.79"),
    "input-129024": ("14.31*", "9.77", "10.39", "10.34"),
}


def speed_rows(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """A row of texts for each point of the table, in the order of SPEED_COLUMNS; none for other loads.

    The measured speed is comparable for the table's own 2048 new tokens only.
    """
    return [
        (point.label, f"{point.metrics['output_token_throughput'].avg:.2f}", *_PUBLISHED[point.label])
        for point in points
        if point.label in _PUBLISHED and point.output_tokens == "2048"
    ]
