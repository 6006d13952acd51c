"""How long a model may think: what a request allows, and a meter of what its answer has used.

Read from the text, as a caller reads it: a marker may be spelled by any tokens, and end within one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from enginewright_front.backend import EngineRequest
from enginewright_front.front_config import Reasoning


@dataclass(frozen=True, slots=True)
class ReasoningBudget:
    """tokens: that may be thought, 0 or more. opened: the prompt ends inside the thinking.

    closing_ids: what ends the thinking in the model's place: its closing marker and an empty line.
    """

    markers: Reasoning
    tokens: int
    opened: bool
    closing_ids: tuple[int, ...]


class ReasoningMeter:
    """Counts the thinking in the answer to `request`, token by token, up to its budget.

    spent: the budget is used up, the thinking not closed, and there is room for an answer behind it: close it
    now. over: there is no thinking, no more of it, or no room: nothing is left to count.
    """

    def __init__(self, budget: ReasoningBudget, request: EngineRequest) -> None:
        self.closing_ids = budget.closing_ids
        self.spent = False
        self.over = False
        self._markers = budget.markers
        self._left = budget.tokens
        self._inside = budget.opened
        self._request = request
        self._made: list[int] = []
        self._text = ""
        if self._inside:
            self._compare()

    def feed(self, token: int, text: str) -> None:
        """The next token of the answer, which completed `text`. Not after `spent` or `over`."""
        self._made.append(token)
        self._text += text
        if self._inside:
            self._left -= 1
        else:
            self._look_for_the_beginning()
        if self._inside:
            self._compare()

    def continuation(self) -> EngineRequest:
        """The request that goes on behind the closing marker.

        Presence and frequency penalties count what the engine makes in one request: they begin again.
        """
        made = (*self._made, *self.closing_ids)
        sampling = self._request.sampling
        return replace(
            self._request,
            input_ids=(*self._request.input_ids, *made),
            sampling=replace(
                sampling,
                max_tokens=sampling.max_tokens - len(made),
                min_tokens=max(0, sampling.min_tokens - len(made)),
            ),
        )

    def _look_for_the_beginning(self) -> None:
        begun, marker = self._text.lstrip(), self._markers.open
        self._inside = begun.startswith(marker)
        if self._inside:
            self._text = begun[len(marker) :]
        else:
            self.over = not marker.startswith(begun)

    def _compare(self) -> None:
        marker = self._markers.close
        self.over = marker in self._text
        self._text = self._text[-len(marker) :]
        if self._left <= 0 and not self.over:
            room = self._request.sampling.max_tokens - len(self._made) - len(self.closing_ids)
            self.spent, self.over = room > 0, room <= 0
