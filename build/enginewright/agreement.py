"""How closely the logits of an engine follow those of its reference, gathered sequence by sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Agreement"]

_ROWS = 64  # rows compared at a time: float64 copies of 150,000 logits each


class Agreement:
    """Sums over positions; read the properties after at least one `add`."""

    def __init__(self) -> None:
        self.positions = 0
        self.logit_scale = 0.0
        self._largest_error = 0.0
        self._same_top = 0
        self._divergences: list[NDArray[np.float64]] = []

    def add(self, reference: NDArray[np.float32], engine: NDArray[np.float32]) -> None:
        """Take in the logits float32 [S, vocab] of one sequence."""
        for start in range(0, len(reference), _ROWS):
            wanted = reference[start : start + _ROWS].astype(np.float64)
            got = engine[start : start + _ROWS].astype(np.float64)
            self.positions += len(wanted)
            self.logit_scale = max(self.logit_scale, float(np.abs(wanted).max()))
            # A NaN has to count as the worst error, not to vanish in a comparison.
            error = np.abs(wanted - got).max()
            self._largest_error = max(self._largest_error, float(error) if np.isfinite(error) else np.inf)
            self._same_top += int((wanted.argmax(axis=1) == got.argmax(axis=1)).sum())
            self._divergences.append(_kl(wanted, got))

    @property
    def logit_error(self) -> float:
        """Largest difference of a logit, relative to the largest logit of the reference."""
        return self._largest_error / self.logit_scale

    @property
    def mean_kl(self) -> float:
        """Mean over positions of KL(reference || engine), in nats."""
        return float(np.concatenate(self._divergences).mean())

    @property
    def p99_kl(self) -> float:
        return float(np.quantile(np.concatenate(self._divergences), 0.99))

    @property
    def top1(self) -> float:
        """Share of positions at which the likeliest token is the same."""
        return self._same_top / self.positions


def _kl(reference: NDArray[np.float64], engine: NDArray[np.float64]) -> NDArray[np.float64]:
    log_p, log_q = _log_softmax(reference), _log_softmax(engine)
    divergence: NDArray[np.float64] = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return np.where(np.isfinite(divergence), np.maximum(divergence, 0.0), np.inf)


def _log_softmax(logits: NDArray[np.float64]) -> Any:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
