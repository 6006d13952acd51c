"""A model of no weights for tests of the batcher: what it says depends on everything that its rows hold.

The rows hold token ids in place of keys and values. The logits of a position are drawn from a hash of all ids
before it and of their rope offset, so a token computed from a wrong row, a stale row, or a row moved badly is
a wrong token.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from enginewright_onnx.runtime.engine_config import ContextRegion, EngineConfig
from numpy.typing import NDArray


def fake_config(
    *, slots: int = 4, slot_tokens: int = 64, prefill_chunk: int = 8, vocab: int = 97
) -> EngineConfig:
    """The engine.json of a `FakeModel`: end id 0, a native region and a long one behind it."""
    return EngineConfig(
        num_layers=1,
        num_kv_heads=1,
        head_dim=1,
        vocab_size=vocab,
        native=ContextRegion(slot_tokens // 2, 0),
        long=ContextRegion(slot_tokens, slot_tokens // 2),
        max_seq_len=slot_tokens,
        max_batch_size=slots,
        prefill_chunk=prefill_chunk,
        kv_budget_bytes=1 << 30,
        eos_token_ids=(0,),
        threads=None,
    )


class FakeModel:
    """`before_call(kind, rows, tokens)` runs at the start of each call and may raise in the model's place."""

    def __init__(
        self, config: EngineConfig, before_call: Callable[[str, int, int], None] | None = None
    ) -> None:
        self.slots = config.max_batch_size
        self.slot_tokens = config.max_seq_len
        self.memory = self
        self.calls: list[tuple[str, int, int]] = []
        self._vocab = config.vocab_size
        self._rows = np.full((self.slots, self.slot_tokens), -1, np.int64)
        self._before_call = before_call

    def prefill(
        self, row: int, tokens: NDArray[np.int32], *, past: int, rope_offset: int, project: int
    ) -> NDArray[np.float32]:
        """Write the chunk and answer for its last `project` positions. Logged as ("prefill", row, tokens)."""
        self._log("prefill", row, len(tokens))
        end = past + len(tokens)
        self._rows[row, past:end] = tokens + 1000 * rope_offset
        logits = [self._logits_after(row, stop) for stop in range(end - project + 1, end + 1)]
        return np.array(logits, np.float32).reshape(project, self._vocab)

    def decode(
        self, tokens: NDArray[np.int64], pasts: NDArray[np.int64], rope_offsets: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Write one token a row and answer for it. Logged as ("decode", rows, 1)."""
        self._log("decode", len(tokens), 1)
        rows = np.arange(len(tokens))
        self._rows[rows, pasts] = tokens + 1000 * rope_offsets
        return np.array([self._logits_after(row, pasts[row] + 1) for row in rows], np.float32)

    def swap(self, one: int, other: int, tokens_of_one: int, tokens_of_other: int) -> None:
        """Exchange exactly what was asked for; the rest of both rows becomes stale."""
        kept = self._rows[one, :tokens_of_one].copy()
        moved = self._rows[other, :tokens_of_other].copy()
        self._rows[[one, other]] = -2
        self._rows[one, :tokens_of_other], self._rows[other, :tokens_of_one] = moved, kept

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy exactly what was asked for; the rest of the target becomes stale."""
        self._rows[target] = -2
        self._rows[target, :tokens] = self._rows[source, :tokens]

    def _log(self, kind: str, rows: int, tokens: int) -> None:
        self.calls.append((kind, rows, tokens))
        if self._before_call is not None:
            self._before_call(kind, rows, tokens)

    def _logits_after(self, row: int, stop: int) -> NDArray[np.float32]:
        state = zlib.crc32(self._rows[row, :stop].tobytes())
        mixed = (np.arange(self._vocab, dtype=np.uint64) + np.uint64(1)) * np.uint64(2654435761 * (state | 1))
        return ((mixed >> np.uint64(20)) % np.uint64(1000)).astype(np.float32) / np.float32(100)
