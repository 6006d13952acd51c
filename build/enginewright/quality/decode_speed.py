"""How fast engines decode, measured in turns so that what else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from enginewright_onnx.runtime import ModelSession

__all__ = ["DecodeSpeed", "decode_speeds"]

_ROUNDS = 7
_STEPS = 12
_CONTEXT = 64  # tokens in front of those that are decoded


@dataclass(frozen=True, slots=True)
class DecodeSpeed:
    """Tokens a second of `streams` streams together: of the median round, the slowest, the fastest."""

    streams: int
    median: float
    slowest: float
    fastest: float


def decode_speeds(engines: Sequence[Path], streams: int, *, threads: int | None = None) -> list[DecodeSpeed]:
    """The decode speed of each engine folder, all loaded at once, without sampling and without a server."""
    from enginewright_onnx.runtime import ModelSession, read_engine_config

    sessions = [ModelSession.open(path, read_engine_config(path), threads=threads) for path in engines]
    streams = min([streams, *(session.memory.slots for session in sessions)])
    rates: list[list[float]] = [[] for _ in sessions]
    for turn in range(_ROUNDS + 1):
        for rate, session in zip(rates, sessions, strict=True):
            found = _round(session, streams)
            if turn:  # the first one warms up
                rate.append(found)
    return [DecodeSpeed(streams, statistics.median(rate), min(rate), max(rate)) for rate in rates]


def _round(session: ModelSession, streams: int) -> float:
    region = session.config.native
    context = min(_CONTEXT, region.max_seq_len - _STEPS)
    tokens, offsets = np.ones(streams, np.int64), np.full(streams, region.rope_offset, np.int64)
    start = time.perf_counter()
    for step in range(_STEPS):
        session.decode(tokens, np.full(streams, context + step, np.int64), offsets)
    return streams * _STEPS / (time.perf_counter() - start)
