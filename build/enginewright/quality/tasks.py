"""Multiple-choice items and word problems from JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import RecipeError

__all__ = ["Choice", "Problem", "Tasks", "read_tasks"]

_MARK = "####"  # before the result in GSM8K's answers


@dataclass(frozen=True, slots=True)
class Choice:
    """answer: the index of the right one of `choices`."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class Problem:
    question: str
    answer: float


@dataclass(frozen=True, slots=True)
class Tasks:
    choices: tuple[Choice, ...]
    problems: tuple[Problem, ...]


def read_tasks(paths: Sequence[Path]) -> Tasks:
    """All items of `paths`, in order. Raises RecipeError naming the file and the line that is none."""
    items = [item for path in paths for item in _read(path)]
    return Tasks(
        tuple(item for item in items if isinstance(item, Choice)),
        tuple(item for item in items if isinstance(item, Problem)),
    )


def _read(path: Path) -> list[Choice | Problem]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"report.tasks: {path} cannot be read: {getattr(error, 'strerror', None) or error}",
            code="tasks-missing",
            hint="give a UTF-8 file with one JSON object a line; the path is relative to the recipe",
        ) from error
    return [_item(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _item(path: Path, number: int, line: str) -> Choice | Problem:
    try:
        fields = json.loads(line)
        return _problem(fields) if "question" in fields else _choice(fields)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RecipeError(
            f"report.tasks: {path.name}, line {number} is no item",
            code="tasks-format",
            hint='write it like {"prompt": "The sky is", "choices": ["blue", "loud"], "answer": 0} '
            'or {"question": "What is 2 + 3?", "answer": 5}',
        ) from None


def _choice(fields: Any) -> Choice:
    item = Choice(fields["prompt"], tuple(fields["choices"]), fields["answer"])
    texts = (item.prompt, *item.choices)
    if len(texts) < 3 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(texts)
    if type(item.answer) is not int or not 0 <= item.answer < len(item.choices):
        raise ValueError(item.answer)
    return item


def _problem(fields: Any) -> Problem:
    answer = fields["answer"]
    if isinstance(answer, str):
        answer = answer.rpartition(_MARK)[2].replace(",", "")
    if not isinstance(fields["question"], str) or isinstance(answer, bool):
        raise TypeError(fields)
    return Problem(fields["question"], float(answer))
