"""Accuracy of models on multiple-choice items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from enginewright.quality.bootstrap import bootstrap_mean
from enginewright.quality.figures import ChoiceFigures, Figure
from enginewright.quality.positions import target_log_probs
from enginewright.quality.texts import ChoiceItem

__all__ = ["ChoiceScores"]

Logits = NDArray[np.float32]


class ChoiceScores:
    """`add` each choice of each item, in order; then read `figures`.

    A choice scores its log-probability over its bytes, as lm-evaluation-harness has it in `acc_norm`.
    """

    def __init__(self, items: Sequence[ChoiceItem]) -> None:
        self._items = items
        self._scores: dict[str, list[float]] = {}

    def add(self, models: Mapping[str, Logits], targets: NDArray[np.int32]) -> None:
        """One choice: the logits [tokens, vocab] that each model predicts its tokens `targets` with."""
        for name, logits in models.items():
            self._scores.setdefault(name, []).append(float(target_log_probs(logits, targets).sum()))

    def figures(self) -> ChoiceFigures:
        original = self._accuracy("original")
        if original is None:
            raise LookupError("no choice was added")
        return ChoiceFigures(
            len(self._items), original, self._accuracy("checkpoint"), self._accuracy("engine")
        )

    def _accuracy(self, name: str) -> Figure | None:
        if name not in self._scores:
            return None
        scores = iter(self._scores[name])
        right = []
        for item in self._items:
            by_byte = [next(scores) / size for size in item.sizes]
            right.append(np.array([int(np.argmax(by_byte)) == item.answer], np.float64))
        return bootstrap_mean(right)
