"""What the tests of max_reasoning_tokens share: the markers, and how an answer is read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from enginewright_front.front_config import Reasoning
from triton_repo.front_under_test import WAIT_SECONDS, Caller, FrontUnderTest

MARKERS = Reasoning("<think>", "</think>", opened_by_template=True)
PROMPT = "2 and 2?<think>\n"
CLOSING = "</think>\n\n"
MakeFront = Callable[..., FrontUnderTest]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.002)


def read(caller: Caller) -> tuple[str, str, int]:
    """(text, finish reason, output tokens) of a whole answer."""
    answers = list(caller.answers())
    text = "".join(answer["text_output"][0].decode() for answer in answers)
    return text, answers[-1]["finish_reason"][0].decode(), int(answers[-1]["num_output_tokens"][0, 0])
