"""What a quality report measures on: held-out text, prompts, multiple-choice items, as token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from enginewright_errors import RecipeError
from enginewright_front.chat_template import read_chat_template
from enginewright_front.messages import Message
from enginewright_front.prompt import PromptEncoder
from numpy.typing import NDArray

from enginewright.calibration import load_held_out
from enginewright.quality.tasks import Choice, read_tasks
from enginewright.recipe import ReportRecipe

__all__ = ["ChoiceItem", "ProblemItem", "ReportTexts", "load_report_texts"]

_DATA = Path(__file__).parents[1] / "data"
_PROMPTS = _DATA / "prompts.txt"
_TASKS = (_DATA / "choices.jsonl", _DATA / "problems.jsonl")
_ASK = "Give the result as a number at the end."

Ids = NDArray[np.int32]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """choices[i]: ids that may follow `prompt`, sizes[i]: its UTF-8 bytes, answer: which one is right."""

    prompt: Ids
    choices: tuple[Ids, ...]
    sizes: tuple[int, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class ProblemItem:
    """prompt: as a server would encode it. answer: the number that its answer has to end with."""

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
        right = [*(item.answer for item in self.items), *(problem.answer for problem in self.problems)]
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
    where = "the built-in ones" if recipe.tasks == "builtin" else Path(recipe.tasks).name
    tasks = read_tasks(_TASKS if recipe.tasks == "builtin" else (Path(recipe.tasks),))
    held_out = recipe.model_copy(update={"length": min(recipe.length, limit)})
    return ReportTexts(
        held_out=load_held_out(held_out, checkpoint).ids,
        prompts=tuple(ask(text) for text in _take(questions, recipe.prompts, "report.prompts")),
        items=tuple(
            _encode_choice(encoder, item, limit)
            for item in _take(tasks.choices, recipe.items, f"report.items: {where}")
        ),
        problems=tuple(
            ProblemItem(ask(f"{item.question}\n{_ASK}"), item.answer)
            for item in _take(tasks.problems, recipe.problems, f"report.problems: {where}")
        ),
    )


def _encode_choice(encoder: PromptEncoder, item: Choice, limit: int) -> ChoiceItem:
    choices = tuple(
        np.asarray(encoder.tokenizer.encode(f" {text}", add_special_tokens=False).ids, np.int32)[: limit // 2]
        for text in item.choices
    )
    room = limit - max(len(ids) for ids in choices)
    prompt = np.asarray(encoder.encode_text(item.prompt), np.int32)[-room:]
    return ChoiceItem(prompt, choices, tuple(len(text.encode()) for text in item.choices), item.answer)


def _take(items: Sequence[Item], count: int, where: str) -> Sequence[Item]:
    if count > len(items):
        raise RecipeError(
            f"{where}: {count} are asked for, there are {len(items)}",
            code="report-texts",
            hint=f"ask for at most {len(items)}",
        )
    return items[:count]
