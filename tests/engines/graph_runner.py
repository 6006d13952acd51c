"""Runs a decoder graph step by step, its KV buffers in a test's own hands. The runtime is tested apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

__all__ = ["GraphRunner", "scaled_error"]

Logits = npt.NDArray[np.float32]


class GraphRunner:
    """Slots 0 .. slots - 1 of an engine, each a KV buffer of `capacity` tokens, full of garbage at first.

    offset: the rope region's first row, of all slots or of each.
    """

    def __init__(
        self, engine: Path, *, slots: int = 1, capacity: int = 96, offset: int | Sequence[int] = 0
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        self.session = onnxruntime.InferenceSession(str(engine / "model.onnx"), options)
        self.description = json.loads((engine / "engine.json").read_text())
        self.offsets = np.broadcast_to(np.asarray(offset), (slots,))
        self.lengths = [0] * slots
        shape = (slots, self.description["num_kv_heads"], capacity, self.description["head_dim"])
        garbage = np.random.default_rng(1)
        self.cache = {
            item.name: garbage.normal(0, 9, shape).astype(np.float32)
            for item in self.session.get_inputs()
            if item.name.startswith("past_")
        }

    def step(
        self, ids: npt.ArrayLike, rows: Sequence[int] | None = None, slots: Sequence[int] = (0,)
    ) -> Logits:
        """Append ids [B, S] to `slots`; logits of the flat `rows`, of all when None."""
        tokens = np.asarray(ids, np.int64)
        batch, size = tokens.shape
        past = np.array([self.lengths[slot] for slot in slots])
        total = past + size
        feeds = {
            "input_ids": tokens,
            "position_ids": (self.offsets[list(slots)] + past)[:, None] + np.arange(size)[None],
            "seqlens_k": (total - 1).astype(np.int32),
            "total_sequence_length": np.array(total.max(), np.int32),
            "logits_rows": np.arange(batch * size) if rows is None else np.array(rows, np.int64),
            **{name: buffer[list(slots)] for name, buffer in self.cache.items()},
        }
        outputs = dict(
            zip(
                [item.name for item in self.session.get_outputs()], self.session.run(None, feeds), strict=True
            )
        )
        for name, buffer in self.cache.items():
            buffer[list(slots)] = outputs[name.replace("past_", "present_")]
        for slot, length in zip(slots, total, strict=True):
            self.lengths[slot] = int(length)
        logits: Logits = outputs["logits"]
        return logits

    def clear(self, slot: int = 0) -> None:
        self.lengths[slot] = 0


def scaled_error(actual: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]) -> float:
    """Largest difference relative to the largest expected magnitude."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
