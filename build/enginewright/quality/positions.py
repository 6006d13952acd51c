"""Next-token distributions of models against the original's, position by position."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from enginewright_onnx.runtime.draw import top_candidates
from numpy.typing import NDArray

from enginewright.agreement import WORST, log_softmax

__all__ = ["KL", "NLL", "ORIGINAL_NLL", "TOP1", "TOP5", "compare_positions", "target_log_probs"]

# Columns of what `compare_positions` returns.
ORIGINAL_NLL, NLL, KL, TOP1, TOP5 = range(5)

_ROWS = 32  # positions compared at a time: float64 copies of 150,000 logits each
_BEST = 5

Values = NDArray[np.float64]
Logits = NDArray[np.float32]


def compare_positions(
    original: Logits, models: Mapping[str, Logits], targets: NDArray[np.int32]
) -> dict[str, Values]:
    """Logits [positions, vocab] and the true next tokens [positions] -> [positions, 5] for each model.

    Columns: negative log-likelihood of the true token by the original and by the model, KL(original || model)
    in nats, whether the likeliest token is the same, share of the five likeliest that are the same. A row of
    a model with NaN or infinity is the worst there is.
    """
    parts: dict[str, list[Values]] = {name: [] for name in models}
    for start in range(0, len(targets), _ROWS):
        part = slice(start, start + _ROWS)
        wanted, truth = log_softmax(original[part].astype(np.float64)), targets[part]
        probabilities, best = np.exp(wanted), _best(original[part])
        for name, logits in models.items():
            sound = np.isfinite(logits[part]).all(axis=1)
            got = log_softmax(np.where(sound[:, None], logits[part], 0).astype(np.float64))
            found = _best(logits[part])
            columns = (
                -_at(wanted, truth),
                np.where(sound, -_at(got, truth), WORST),
                np.where(sound, np.maximum((probabilities * (wanted - got)).sum(axis=1), 0.0), WORST),
                sound & (best[:, 0] == found[:, 0]),
                np.where(sound, (best[:, :, None] == found[:, None, :]).any(axis=2).mean(axis=1), 0.0),
            )
            parts[name].append(np.stack(columns, axis=1))
    return {name: np.concatenate(found) for name, found in parts.items()}


def target_log_probs(logits: Logits, targets: NDArray[np.int32]) -> Values:
    """Log-probability of targets[i] by the logits [i, vocab]."""
    return _at(log_softmax(logits.astype(np.float64)), targets)


def _at(values: Values, targets: NDArray[np.int32]) -> Values:
    found: Values = values[np.arange(len(targets)), targets]
    return found


def _best(logits: Logits) -> NDArray[np.int64]:
    """Ids [positions, 5] of the largest logits, the largest first."""
    return np.stack([top_candidates(row, _BEST)[0] for row in logits])
