"""Accuracy on word problems, GSM8K's kind: the last number of a greedy answer has to be the right one."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from enginewright.quality.bootstrap import bootstrap_mean
from enginewright.quality.figures import Figure

__all__ = ["last_number", "problem_accuracy"]

# 1,234.5 and -3, but not the dot that ends a sentence.
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def problem_accuracy(texts: Sequence[str], answers: Sequence[float]) -> Figure:
    """The share of `texts` that end in their number of `answers`."""
    right = [last_number(text) == answer for text, answer in zip(texts, answers, strict=True)]
    return bootstrap_mean([np.array([value], np.float64) for value in right])


def last_number(text: str) -> float | None:
    """The last number in `text`, None without one."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
