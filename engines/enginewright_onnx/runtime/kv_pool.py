"""The memory of keys and values: one row (slot) for each sequence, all layers alike.

A layer has two buffers float32 [slots, kv_heads, S_max, head_dim]. The model reads and writes a run of
rows in place, as past and present at once, so nothing is copied in a step; decoding rows are therefore
kept next to each other at the front, and a row changes its place by `swap`. Buffers come from the
operating system untouched: a page costs memory only once a token was written to it.
"""

from __future__ import annotations

import numpy as np
from enginewright_errors import DoesNotFit
from numpy.typing import NDArray

from enginewright_onnx.runtime.engine_config import EngineConfig

_BYTES = 4  # float32


class KVPool:
    """Rows for `slots` sequences of up to S_max tokens.

    Raises DoesNotFit, naming the max_seq_len that would fit, when the budget does not hold a single slot.
    """

    def __init__(self, config: EngineConfig, budget_bytes: int | None = None) -> None:
        budget = config.kv_budget_bytes if budget_bytes is None else budget_bytes
        token_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim * _BYTES
        slot_bytes = token_bytes * config.max_seq_len
        if budget < slot_bytes:
            raise DoesNotFit(
                f"kv_budget_bytes={budget} does not hold one slot of max_seq_len={config.max_seq_len}, "
                f"which needs {slot_bytes} bytes ({token_bytes} a token)",
                code="kv-budget",
                hint=f"raise the KV budget, or build the engine with max_seq_len <= {budget // token_bytes}",
            )
        self.slots = min(config.max_batch_size, budget // slot_bytes)
        self.slot_tokens = config.max_seq_len
        self.row_shape = (config.num_kv_heads, config.max_seq_len, config.head_dim)
        shape = (self.slots, *self.row_shape)
        # np.zeros maps pages that are zero when first read and take no memory before.
        self.keys = [np.zeros(shape, np.float32) for _ in range(config.num_layers)]
        self.values = [np.zeros(shape, np.float32) for _ in range(config.num_layers)]

    @property
    def buffers(self) -> list[NDArray[np.float32]]:
        """All buffers, [slots, kv_heads, S_max, head_dim] each."""
        return self.keys + self.values

    def swap(self, one: int, other: int, tokens_of_one: int, tokens_of_other: int) -> None:
        """Exchange the first tokens_of_one tokens of row `one` with the first tokens_of_other of `other`."""
        for buffer in self.buffers:
            kept = buffer[one, :, :tokens_of_one].copy()
            buffer[one, :, :tokens_of_other] = buffer[other, :, :tokens_of_other]
            buffer[other, :, :tokens_of_one] = kept

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` tokens of row `source` over those of row `target`."""
        for buffer in self.buffers:
            buffer[target, :, :tokens] = buffer[source, :, :tokens]
