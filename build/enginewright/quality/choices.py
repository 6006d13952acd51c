"""Accuracy of models on multiple-choice items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from enginewright.quality.bootstrap import bootstrap_mean
from enginewright.quality.figures import MODELS, Figure, TaskFigures
from enginewright.quality.positions import target_log_probs
from enginewright.quality.texts import ChoiceItem

__all__ = ["ChoiceScores"]

Logits = NDArray[np.float32]
Values = NDArray[np.float64]


class ChoiceScores:
    """`add` each choice of each item, in order; then read `figures`.

    A choice scores its log-probability over its length in bytes, the measure that lm-evaluation-harness calls
    `acc_norm` (it counts characters).
    """

    def __init__(self, items: Sequence[ChoiceItem]) -> None:
        self._items = items
        self._scores: dict[str, list[float]] = {}

    def add(self, models: Mapping[str, Logits], targets: NDArray[np.int32]) -> None:
        """One choice: the logits [tokens, vocab] that each model predicts its tokens `targets` with."""
        for name, logits in models.items():
            self._scores.setdefault(name, []).append(float(target_log_probs(logits, targets).sum()))

    def figures(self) -> tuple[TaskFigures, ...]:
        """Those of each task, in order."""
        right = {name: self._right(name) for name in self._scores}
        return tuple(
            TaskFigures(
                task, len(right["original"][task]), *(_accuracy(right, name, task) for name in MODELS)
            )
            for task in dict.fromkeys(item.task for item in self._items)
        )

    def _right(self, model: str) -> dict[str, list[Values]]:
        """Task -> for each item 1 if the model's best choice is the right one, else 0."""
        scores, right = iter(self._scores[model]), dict[str, list[Values]]()
        for item in self._items:
            by_byte = np.array([*islice(scores, len(item.sizes))]) / item.sizes
            chosen = int(np.argmax(by_byte))
            right.setdefault(item.task, []).append(np.array([chosen == item.answer], np.float64))
        return right


def _accuracy(right: Mapping[str, Mapping[str, Sequence[Values]]], model: str, task: str) -> Figure | None:
    return bootstrap_mean(right[model][task]) if model in right else None
