"""What a quality report measures on: held-out text, prompts, multiple-choice items, as token ids."""

from __future__ import annotations

import hashlib
import json
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
from enginewright.recipe import ReportRecipe

__all__ = ["ChoiceItem", "ReportTexts", "load_report_texts"]

_DATA = Path(__file__).parents[1] / "data"
_PROMPTS = _DATA / "prompts.txt"
_CHOICES = _DATA / "choices.jsonl"

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
class ReportTexts:
    """held_out: int32 [samples, length]. prompts: as a server would encode them."""

    held_out: Ids
    prompts: tuple[Ids, ...]
    items: tuple[ChoiceItem, ...]

    @property
    def sha256(self) -> str:
        """Hash of all ids; the same on every machine."""
        state = hashlib.sha256()
        for ids in (*self.held_out, *self.prompts, *self._item_ids()):
            state.update(f"{len(ids)}\0".encode() + np.ascontiguousarray(ids, "<i4").tobytes())
        state.update(repr([item.answer for item in self.items]).encode())
        return state.hexdigest()

    def _item_ids(self) -> Iterator[Ids]:
        for item in self.items:
            yield from (item.prompt, *item.choices)


def load_report_texts(recipe: ReportRecipe, checkpoint: Path, limit: int) -> ReportTexts:
    """The texts of `recipe` for the tokenizer in `checkpoint`; none is longer than `limit` tokens.

    Raises:
        RecipeError: data that is missing or malformed, or less of it than asked for.
        CheckpointError: a tokenizer that cannot be read.
    """
    encoder = PromptEncoder(checkpoint)
    chat = read_chat_template(checkpoint) is not None
    room = limit - min(recipe.answer_tokens, limit // 2)
    questions = _PROMPTS.read_text(encoding="utf-8").splitlines()
    prompts = [
        encoder.encode_messages([Message("user", text)]) if chat else encoder.encode_text(text)
        for text in _take(questions, recipe.prompts, "report.prompts")
    ]
    where = "the built-in items" if recipe.tasks == "builtin" else Path(recipe.tasks).name
    records = _read_items(_CHOICES if recipe.tasks == "builtin" else Path(recipe.tasks))
    held_out = recipe.model_copy(update={"length": min(recipe.length, limit)})
    return ReportTexts(
        held_out=load_held_out(held_out, checkpoint).ids,
        prompts=tuple(np.asarray(ids[-room:], np.int32) for ids in prompts),
        items=tuple(
            _encode_item(encoder, record, limit)
            for record in _take(records, recipe.items, f"report.items: {where}")
        ),
    )


@dataclass(frozen=True, slots=True)
class _Record:
    prompt: str
    choices: tuple[str, ...]
    answer: int


def _encode_item(encoder: PromptEncoder, record: _Record, limit: int) -> ChoiceItem:
    choices = tuple(
        np.asarray(encoder.tokenizer.encode(f" {text}", add_special_tokens=False).ids, np.int32)[: limit // 2]
        for text in record.choices
    )
    room = limit - max(len(ids) for ids in choices)
    prompt = np.asarray(encoder.encode_text(record.prompt), np.int32)[-room:]
    return ChoiceItem(prompt, choices, tuple(len(text.encode()) for text in record.choices), record.answer)


def _read_items(path: Path) -> list[_Record]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"report.tasks: {path} cannot be read: {getattr(error, 'strerror', None) or error}",
            code="tasks-missing",
            hint="give a UTF-8 file with one JSON object a line; the path is relative to the recipe",
        ) from error
    return [_record(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _record(path: Path, number: int, line: str) -> _Record:
    try:
        item = json.loads(line)
        record = _Record(item["prompt"], tuple(item["choices"]), item["answer"])
        texts = (record.prompt, *record.choices)
        sound = all(isinstance(text, str) and text.strip() for text in texts) and len(texts) > 2
        if sound and isinstance(record.answer, int) and 0 <= record.answer < len(record.choices):
            return record
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise RecipeError(
        f"report.tasks: {path.name}, line {number} is no item",
        code="tasks-format",
        hint='write it like {"prompt": "The sky is", "choices": ["blue", "loud"], "answer": 0}',
    )


def _take(items: Sequence[Item], count: int, where: str) -> Sequence[Item]:
    if count > len(items):
        raise RecipeError(
            f"{where}: {count} are asked for, there are {len(items)}",
            code="report-texts",
            hint=f"ask for at most {len(items)}",
        )
    return items[:count]
