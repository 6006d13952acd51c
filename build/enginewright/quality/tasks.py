"""Multiple-choice items and word problems from files, as `task_items` reads each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import RecipeError

from enginewright.quality.task_items import Choice, Problem, task_item

__all__ = ["Tasks", "read_tasks"]


@dataclass(frozen=True, slots=True)
class Tasks:
    """By the name of the task; a task without such items is not in it."""

    choices: Mapping[str, tuple[Choice, ...]]
    problems: Mapping[str, tuple[Problem, ...]]


def read_tasks(files: Mapping[str, Path]) -> Tasks:
    """All items of `files`, in order. Raises RecipeError naming the file and the item that is none."""
    items = {name: _read(path) for name, path in files.items()}
    choices = {name: tuple(item for item in items[name] if isinstance(item, Choice)) for name in items}
    problems = {name: tuple(item for item in items[name] if isinstance(item, Problem)) for name in items}
    return Tasks(
        {name: found for name, found in choices.items() if found},
        {name: found for name, found in problems.items() if found},
    )


def _read(path: Path) -> list[Choice | Problem]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"report.tasks: {path} cannot be read: {getattr(error, 'strerror', None) or error}",
            code="tasks-missing",
            hint="give a UTF-8 file with one JSON object a line; the path is relative to the recipe",
        ) from error
    if path.suffix == ".json":
        return [_item(path, f"item {number}", item) for number, item in enumerate(_list(path, text), start=1)]
    return [
        _item(path, f"line {number}", line)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]


def _list(path: Path, text: str) -> list[Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise RecipeError(
            f"report.tasks: {path.name} is no JSON array",
            code="tasks-format",
            hint="one object a line goes into a .jsonl file",
        )
    return found


def _item(path: Path, place: str, value: Any) -> Choice | Problem:
    """value: JSON, or its text."""
    try:
        return task_item(json.loads(value) if path.suffix != ".json" else value)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise RecipeError(
            f"report.tasks: {path.name}, {place} is no item",
            code="tasks-format",
            hint='write it like {"prompt": "The sky is", "choices": ["blue", "loud"], "answer": 0} '
            'or {"question": "What is 2 + 3?", "answer": 5}, or as HellaSwag, TruthfulQA or GSM8K have it',
        ) from None
