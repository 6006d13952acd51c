"""What a quality report measures on: held-out text, prompts, multiple-choice items, as token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from enginewright_errors import RecipeError
from enginewright_front.chat_template import read_chat_template
from enginewright_front.messages import Message
from enginewright_front.prompt import PromptEncoder
from numpy.typing import NDArray

from enginewright.cache import default_cache_folder
from enginewright.calibration import load_held_out
from enginewright.quality.task_items import Choice
from enginewright.quality.task_sets import task_files
from enginewright.quality.tasks import read_tasks
from enginewright.recipe import ReportRecipe

__all__ = ["ChoiceItem", "ProblemItem", "ReportTexts", "load_report_texts"]

_PROMPTS = Path(__file__).parents[1] / "data" / "prompts.txt"
_ASK = "Give the result as a number at the end."

Ids = NDArray[np.int32]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """choices[i]: ids that may follow `prompt`, sizes[i]: its UTF-8 bytes, answer: which one is right."""

    task: str
    prompt: Ids
    choices: tuple[Ids, ...]
    sizes: tuple[int, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class ProblemItem:
    """prompt: as a server would encode it. answer: the number that its answer has to end with."""

    task: str
    prompt: Ids
    answer: float


@dataclass(frozen=True, slots=True)
class ReportTexts:
    """held_out: int32 [samples, length]. prompts: as a server would encode them."""

    held_out: Ids
    prompts: tuple[Ids, ...]
    items: tuple[ChoiceItem, ...]
    problems: tuple[ProblemItem, ...]

    @property
    def sha256(self) -> str:
        """Hash of all ids; the same on every machine."""
        state = hashlib.sha256()
        for ids in (*self.held_out, *self.prompts, *self._item_ids()):
            state.update(f"{len(ids)}\0".encode() + np.ascontiguousarray(ids, "<i4").tobytes())
        right: list[tuple[str, float]] = [(item.task, item.answer) for item in self.items]
        right += [(problem.task, problem.answer) for problem in self.problems]
        state.update(repr(right).encode())
        return state.hexdigest()

    def _item_ids(self) -> Iterator[Ids]:
        for item in self.items:
            yield from (item.prompt, *item.choices)
        yield from (problem.prompt for problem in self.problems)


def load_report_texts(recipe: ReportRecipe, checkpoint: Path, limit: int) -> ReportTexts:
    """The texts of `recipe` for the tokenizer in `checkpoint`; none is longer than `limit` tokens.

    Raises:
        RecipeError: data that is missing or malformed, or less of it than asked for.
        CheckpointError: a tokenizer that cannot be read.
    """
    encoder = PromptEncoder(checkpoint)
    chat = read_chat_template(checkpoint) is not None
    room = limit - min(recipe.answer_tokens, limit // 2)

    def ask(text: str) -> Ids:
        ids = encoder.encode_messages([Message("user", text)]) if chat else encoder.encode_text(text)
        return np.asarray(ids[-room:], np.int32)

    questions = _PROMPTS.read_text(encoding="utf-8").splitlines()
    tasks = read_tasks(task_files(recipe.tasks, default_cache_folder()))
    held_out = recipe.model_copy(update={"length": min(recipe.length, limit)})
    return ReportTexts(
        held_out=load_held_out(held_out, checkpoint).ids,
        prompts=tuple(ask(text) for text in _take(questions, recipe.prompts, "report.prompts")),
        items=tuple(
            _encode_choice(encoder, task, item, limit)
            for task, item in _take_each(tasks.choices, recipe.items, "report.items")
        ),
        problems=tuple(
            ProblemItem(task, ask(f"{item.question}\n{_ASK}"), item.answer)
            for task, item in _take_each(tasks.problems, recipe.problems, "report.problems")
        ),
    )


def _encode_choice(encoder: PromptEncoder, task: str, item: Choice, limit: int) -> ChoiceItem:
    choices = tuple(
        np.asarray(encoder.tokenizer.encode(f" {text}", add_special_tokens=False).ids, np.int32)[: limit // 2]
        for text in item.choices
    )
    room = limit - max(len(ids) for ids in choices)
    prompt = np.asarray(encoder.encode_text(item.prompt), np.int32)[-room:]
    return ChoiceItem(task, prompt, choices, tuple(len(text.encode()) for text in item.choices), item.answer)


def _take_each(tasks: Mapping[str, Sequence[Item]], count: int, where: str) -> Iterator[tuple[str, Item]]:
    """The first `count` items of every task, with its name."""
    for name, items in (tasks or {"report.tasks": ()}).items():
        for item in _take(items, count, f"{where}: {name}"):
            yield name, item


def _take(items: Sequence[Item], count: int, where: str) -> Sequence[Item]:
    if count > len(items):
        raise RecipeError(
            f"{where}: {count} are asked for, there are {len(items)}",
            code="report-texts",
            hint=f"ask for at most {len(items)}",
        )
    return items[:count]
