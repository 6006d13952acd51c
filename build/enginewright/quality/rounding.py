"""Plain rounding to four bits: what INT4 loses without calibration, as a yardstick for AWQ.

Symmetric, to the nearest, one scale for a group of weights, as ModelOpt's INT4_BLOCKWISE_WEIGHT_ONLY_CFG.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enginewright.quality.figures import TextsFigures
from enginewright.quality.text_agreement import TextAgreement
from enginewright.reference_logits import ReferenceSequence, reference_logits
from enginewright.torch_session import torch_session

__all__ = ["plain_rounding_cost", "round_to_int4"]

_LARGEST = np.float32(7.0)


def round_to_int4(weight: NDArray[np.float32], group_size: int) -> NDArray[np.float32]:
    """The float32 values [out, in] that four bits with a scale a group of `group_size` columns can hold."""
    groups = weight.reshape(len(weight), -1, group_size)
    scale = np.abs(groups).max(axis=2, keepdims=True) / _LARGEST
    codes = np.rint(np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0))
    rounded: NDArray[np.float32] = (codes * scale).reshape(weight.shape)
    return rounded


def plain_rounding_cost(
    source: Path, held_out: NDArray[np.int32], group_size: int, *, threads: int | None = None
) -> TextsFigures:
    """Figures of `source` with every decoder linear rounded, as `checkpoint`, on `held_out` [samples, S].

    Raises CheckpointError for a checkpoint that lacks a tensor.
    """
    sequences = [ReferenceSequence(ids[:-1]) for ids in held_out]
    texts = TextAgreement()
    with torch_session(threads):
        original = reference_logits(source, sequences)
        rounded = reference_logits(source, sequences, change=partial(round_to_int4, group_size=group_size))
        for ids, wanted, got in zip(held_out, original, rounded, strict=True):
            texts.add(wanted, {"checkpoint": got}, ids[1:])
    figures = texts.figures()
    if figures is None:
        raise LookupError("there is no text to measure on")
    return figures
