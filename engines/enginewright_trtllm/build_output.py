"""Reads trtllm-build's log: progress while it runs, the error and its likely cause when it failed.

Lines look like `[10/12/2024-15:46:23] [TRT-LLM] [I] Serializing engine to E/rank0.engine...`; with several
workers the ranks' lines mix, so progress counts what was finished, not where one rank stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from enginewright_errors import StageFailed

from enginewright_trtllm.build_failures import Cause, likely_cause

__all__ = ["BuildLog", "BuildMemory"]

_LINE = re.compile(r"^\[[^\]]*\] \[(?P<source>TRT-LLM|TRT)\] \[(?P<level>[A-Z])\] (?P<text>.*)$")
_ERROR = re.compile(r"^(?P<text>[A-Za-z_][\w.]*(?:Error|Exception)\b.*)$")
# What each rank reaches in turn, and how far its build is then; the gaps are the usual shares of the time.
_MILESTONES: tuple[tuple[re.Pattern[str], float, str], ...] = (
    (re.compile(r"Total time of constructing network"), 0.10, "network"),
    (re.compile(r"Build TensorRT engine"), 0.15, "compiling"),
    (re.compile(r"Engine generation completed"), 0.70, "compiled"),
    (re.compile(r"Serializing engine to"), 0.75, "writing"),
    (re.compile(r"Engine serialized"), 1.0, "written"),
)
_FIGURES = {
    "host": re.compile(r"Peak memory usage during Engine building and serialization: CPU: (\d+) MiB"),
    "device": re.compile(r"Peak memory usage of TRT CPU/GPU memory allocators: CPU \d+ MiB, GPU (\d+) MiB"),
    "activations": re.compile(r"Total Activation Memory: (\d+)"),
    "weights": re.compile(r"Total Weights Memory: (\d+)"),
}
_KEPT_LINES = 40


@dataclass(frozen=True, slots=True)
class BuildMemory:
    """Bytes that the builder reported, the largest over the ranks; None where a line was not seen."""

    host: int | None
    device: int | None
    activations: int | None
    weights: int | None


class BuildLog:
    """Feed it the builder's lines; ask it at any time."""

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._reached = [0] * len(_MILESTONES)
        self._figures: dict[str, int] = {}
        self._errors: list[str] = []
        self._tail: list[str] = []

    def feed(self, line: str) -> None:
        """Take one line, with or without its end."""
        line = line.rstrip()
        self._tail = [*self._tail[1 - _KEPT_LINES :], line]
        match = _LINE.match(line)
        text = match["text"] if match else line
        if match is None:
            plain = _ERROR.match(line)
            if plain is not None:
                self._errors.append(plain["text"])
        elif match["level"] in "EF":
            self._errors.append(text)
        self._note_milestone(text)
        self._note_figures(text)

    @property
    def fraction(self) -> float:
        """Share of the work that is done, 0 to 1; never falls."""
        done = 0.0
        for rank in range(self._world_size):
            reached = [
                share for count, (_, share, _) in zip(self._reached, _MILESTONES, strict=True) if count > rank
            ]
            done += max(reached, default=0.0)
        return done / self._world_size

    @property
    def step(self) -> str:
        """What is going on, in a few words: "compiling, 1 of 2 ranks written"."""
        written = min(self._reached[-1], self._world_size)
        latest = "starting"
        for count, (_, _, name) in zip(self._reached, _MILESTONES, strict=True):
            if count > written:
                latest = name
        if written == self._world_size:
            return "written"
        return latest if self._world_size == 1 else f"{latest}, {written} of {self._world_size} ranks written"

    @property
    def memory(self) -> BuildMemory:
        return BuildMemory(
            *(self._figures.get(name) for name in ("host", "device", "activations", "weights"))
        )

    @property
    def last_error(self) -> str | None:
        """The builder's last error line, or None."""
        return self._errors[-1] if self._errors else None

    def failure(self, exit_code: int) -> StageFailed:
        """The error to raise for a builder that ended with `exit_code` (negative: by a signal)."""
        cause: Cause | None = likely_cause(self._errors, self._tail, exit_code)
        last = self.last_error or next((line for line in reversed(self._tail) if line), "it printed nothing")
        return StageFailed(
            f"trtllm-build failed with exit code {exit_code}: {last}"
            + (f" ({cause.explanation})" if cause else ""),
            code=cause.code if cause else "trtllm-build",
            hint=cause.remedy if cause else "Read the whole log; the first error is usually the telling one.",
        )

    def _note_milestone(self, text: str) -> None:
        for index, (pattern, _, _) in enumerate(_MILESTONES):
            if pattern.search(text):
                self._reached[index] += 1

    def _note_figures(self, text: str) -> None:
        for name, pattern in _FIGURES.items():
            match = pattern.search(text)
            if match is not None:
                size = int(match[1]) * (2**20 if name in ("host", "device") else 1)
                self._figures[name] = max(size, self._figures.get(name, 0))
