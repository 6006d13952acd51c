"""How fast a machine could decode at most: memory that must be read, divided by how fast it can be read.

A decode step reads every weight once, for all sequences together, and each sequence's own KV cache:

    step = (weight_bytes + streams x context x kv_bytes_per_token) / bandwidth
    limit = streams / step      tokens a second of all streams

Nothing that decodes a token at a time, without guessing ahead (speculative decoding), is faster. Prefill is
not in it, so a load of long prompts and short answers cannot come near.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_bench.summary import Summary

__all__ = ["LimitReached", "PhysicalLimit", "read_limit", "share_reached"]


@dataclass(frozen=True, slots=True)
class PhysicalLimit:
    """Bytes, and bytes a second. streams: sequences that are decoded together at most, None if unknown.

    source: where the figures are from.
    """

    weight_bytes: float
    kv_bytes_per_token: float
    bandwidth: float
    streams: int | None
    source: str

    def step_seconds(self, streams: float, context: float) -> float:
        """One token for each of `streams` sequences of `context` tokens."""
        return (self.weight_bytes + streams * context * self.kv_bytes_per_token) / self.bandwidth


@dataclass(frozen=True, slots=True)
class LimitReached:
    """The limit at the load that was measured.

    streams, context: the load's means. tokens_per_second: the limit for all streams.
    share: of it, by the output of the whole run, prefill and waiting included. decode_share: the shortest
    possible step over the median inter-token latency; None where no answer had two tokens.
    """

    streams: float
    context: float
    tokens_per_second: float
    share: float
    decode_share: float | None


def share_reached(limit: PhysicalLimit, metrics: Mapping[str, Summary]) -> LimitReached | None:
    """How near the measured load came; None if no request was answered."""
    if "output_sequence_length" not in metrics:
        return None
    busy = metrics["effective_concurrency"].avg
    streams = min(busy, limit.streams) if limit.streams else busy
    # Over an answer the context grows from the prompt to prompt and answer.
    context = metrics["input_sequence_length"].avg + metrics["output_sequence_length"].avg / 2
    step = limit.step_seconds(streams, context)
    gap = metrics.get("inter_token_latency")
    return LimitReached(
        streams=streams,
        context=context,
        tokens_per_second=streams / step,
        share=metrics["output_token_throughput"].avg * step / streams,
        decode_share=1000 * step / gap.p50 if gap is not None and gap.p50 else None,
    )


def read_limit(repository: Path, bandwidth: tuple[float, str] | None) -> PhysicalLimit | str:
    """From the plan in a built repository, or why it is unknown.

    bandwidth: bytes a second and where that is from; None takes what the build measured on its machine.
    """
    try:
        manifest = _load(repository / "manifest.json")
        plan = manifest["plan"]
        weights = float(plan["sizes"]["step_bytes"])
        kv = float(plan["sizes"]["kv_bytes_per_token"])
        streams = int(plan["sizes"]["sequences"])
    except (OSError, ValueError, KeyError, TypeError):
        return (
            f"{repository}/manifest.json has no sizes of a decode step; give --weight-bytes, --kv-bytes and "
            "--memory-bandwidth"
        )
    if bandwidth is None and "read_bandwidth" in plan:
        bandwidth = float(plan["read_bandwidth"]), "of the plan's GPUs"
    if bandwidth is None:
        try:
            speed = float(_load(repository / "report.json")["plan"]["machine"]["read_bandwidth"])
        except (OSError, ValueError, KeyError, TypeError):
            return f"{repository}/report.json has no measured memory bandwidth: give --memory-bandwidth"
        bandwidth = speed, "measured by the build"
    return PhysicalLimit(weights, kv, bandwidth[0], streams, f"the build's plan; bandwidth {bandwidth[1]}")


def _load(path: Path) -> Any:
    return json.loads(path.read_bytes())
