"""Accuracy on word problems, GSM8K's kind: the last number of a greedy answer has to be the right one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from enginewright.quality.bootstrap import bootstrap_mean
from enginewright.quality.figures import MODELS, Figure, TaskFigures
from enginewright.quality.texts import ProblemItem

__all__ = ["last_number", "problem_figures"]

# 1,234.5 and -3, but not the dot that ends a sentence.
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def problem_figures(
    problems: Sequence[ProblemItem], texts: Mapping[str, Sequence[str]]
) -> tuple[TaskFigures, ...]:
    """Those of each task, in order. texts: by model, the answer to each of `problems`."""
    tasks: dict[str, list[int]] = {}
    for index, problem in enumerate(problems):
        tasks.setdefault(problem.task, []).append(index)

    def accuracy(model: str, among: Sequence[int]) -> Figure | None:
        if model not in texts:
            return None
        right = [last_number(texts[model][index]) == problems[index].answer for index in among]
        return bootstrap_mean([np.array([value], np.float64) for value in right])

    return tuple(
        TaskFigures(task, len(among), *(accuracy(model, among) for model in MODELS))
        for task, among in tasks.items()
    )


def last_number(text: str) -> float | None:
    """The last number in `text`, None without one."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
