"""How closely the logits of an engine follow those of its reference, gathered sequence by sequence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORST", "Agreement", "log_softmax"]

WORST = 1e9  # for what is not a number: beyond every bound, and still JSON
_ROWS = 64  # rows compared at a time: float64 copies of 150,000 logits each


class Agreement:
    """Sums over positions; read the properties after at least one `add`."""

    def __init__(self) -> None:
        self.positions = 0
        self.logit_scale = float(np.finfo(np.float32).tiny)  # not 0, should all weights be: it divides
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
            # A row with NaN or infinity counts as the worst there is, not as nothing in a comparison.
            sound = np.isfinite(got).all(axis=1)
            error = np.abs(wanted[sound] - got[sound]).max(initial=0.0) if sound.all() else WORST
            self._largest_error = max(self._largest_error, float(error))
            self._same_top += int((wanted[sound].argmax(axis=1) == got[sound].argmax(axis=1)).sum())
            divergence = np.full(len(wanted), WORST)
            divergence[sound] = _kl(wanted[sound], got[sound])
            self._divergences.append(divergence)

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
    log_p, log_q = log_softmax(reference), log_softmax(engine)
    divergence: NDArray[np.float64] = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return np.maximum(divergence, 0.0)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities [rows, vocab]."""
    shifted: NDArray[np.float64] = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
