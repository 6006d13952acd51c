"""Logits of every position of a prompt, for verification."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from enginewright_onnx.runtime.model_session import ModelSession
from enginewright_onnx.runtime.request import checked_tokens


def score(
    session: ModelSession,
    input_ids: Sequence[int] | NDArray[np.int32],
    *,
    chunk: int | None = None,
    long_context: bool = False,
    row: int = 0,
) -> NDArray[np.float32]:
    """Logits float32 [S, vocab] of `input_ids` [S], computed into `row` in chunks of `chunk` tokens.

    chunk: 1 is token by token, as decoding does it; None takes the engine's prefill_chunk.
    The session must not be used by an `Engine` at the same time. Raises UsageError naming input_ids.
    """
    config = session.config
    region = config.region(long_context) or config.native
    tokens = checked_tokens(input_ids, 0, vocab_size=config.vocab_size, max_seq_len=region.max_seq_len)
    size = config.prefill_chunk if chunk is None else chunk
    logits = np.empty((len(tokens), config.vocab_size), np.float32)
    for start in range(0, len(tokens), size):
        part = tokens[start : start + size]
        logits[start : start + size] = session.prefill(
            row, part, past=start, rope_offset=region.rope_offset, project=len(part)
        )
    return logits
