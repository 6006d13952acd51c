"""`enginewright ask "..."`: one question to a running server, its answer streamed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from enginewright_errors import UsageError

from enginewright.commands import options
from enginewright.interrupt import Interrupted, interruptible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enginewright_client import CompletionStream, Delta, Prompt

__all__ = ["Stopwatch", "ask", "print_answer", "summary"]

# What a model says must not move the cursor or change the terminal.
_HARMLESS = dict.fromkeys([*range(0x20), 0x7F, *range(0x80, 0xA0)]) | {9: "\t", 10: "\n"}


def ask(
    question: Annotated[
        str | None, typer.Argument(help="The question; - or none at all reads standard input.")
    ] = None,
    server: Annotated[
        str, typer.Option("--server", metavar="HOST:PORT", help="gRPC address of the server.")
    ] = "127.0.0.1:8001",
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Length of the answer.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Probability to choose from.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed gives the same answer.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="Instructions before the question.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text, without the chat template.")] = False,
    json_lines: options.JsonOption = False,
) -> None:
    """Ask a running server; the answer is printed as it is generated. Ctrl-C cancels it, there too.

    What is left out is the checkpoint's own setting.

    \b
    Examples:
        enginewright ask "What is the capital of France?"
        enginewright ask --system "Answer in one word." --temperature 0 < question.txt
        enginewright ask --raw "Once upon a time" --max-tokens 100 --server 127.0.0.1:9001
    """
    from enginewright_client import SamplingParams, TritonClient

    with _exit_quietly(), options.reporting(json_lines) as reporter, interruptible(clean=lambda: None):
        prompt = _prompt(_read(question), system, raw=raw)
        sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
        with TritonClient(server) as client, client.stream(prompt, sampling) as answer:
            asked = Stopwatch()
            text = print_answer(asked.watch(answer), json_lines=json_lines)
        if json_lines:
            reporter.result("", {"ok": True, "text": text, **_numbers(answer, asked)})
        elif sys.stderr.isatty():
            print(summary(answer, asked), file=sys.stderr)


class Stopwatch:
    """Seconds from its making to the first text, and to the end."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.first: float | None = None
        self.total = 0.0

    def watch(self, answer: Iterable[Delta]) -> Iterator[Delta]:
        """`answer`, timed."""
        for delta in answer:
            self.total = time.monotonic() - self._start
            if self.first is None and delta.text:
                self.first = self.total
            yield delta


@contextmanager
def _exit_quietly() -> Iterator[None]:
    """An interrupted answer needs no explanation."""
    try:
        yield
    except Interrupted as interrupt:
        print(file=sys.stderr)
        raise typer.Exit(128 + interrupt.number) from None


def _read(question: str | None) -> str:
    if question is None or question == "-":
        question = _read_input(question)
    if not question.strip():
        raise _wrong("the question is empty", 'enginewright ask "What is ...?"')
    return question


def _read_input(question: str | None) -> str:
    if question is None and sys.stdin.isatty():
        raise _wrong("no question", 'enginewright ask "What is ...?", or give a file by <')
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise _wrong(
            f"standard input is not UTF-8: {error.reason} at byte {error.start}", "convert it"
        ) from None
    return text.removesuffix("\n")


def _prompt(question: str, system: str | None, *, raw: bool) -> Prompt:
    if raw and system is not None:
        raise _wrong("--system has no place in a --raw text", "write it into the text, or drop --raw")
    if raw:
        return question
    instructions = [] if system is None else [{"role": "system", "content": system}]
    return [*instructions, {"role": "user", "content": question}]


def _wrong(message: str, hint: str) -> UsageError:
    return UsageError(message, code="usage", hint=hint)


def print_answer(deltas: Iterable[Delta], *, json_lines: bool = False) -> str:
    """Show every delta at once; returns the whole text."""
    pieces = []
    terminal = sys.stdout.isatty()
    try:
        for delta in deltas:
            pieces.append(delta.text)
            if json_lines:
                print(json.dumps({"event": "delta", "text": delta.text}), flush=True)
            else:
                print(delta.text.translate(_HARMLESS) if terminal else delta.text, end="", flush=True)
    finally:
        if pieces and not json_lines:
            print(flush=True)
    return "".join(pieces)


def _numbers(answer: CompletionStream, asked: Stopwatch) -> dict[str, object]:
    usage = answer.usage
    return {
        "finish_reason": answer.finish_reason,
        "request_id": answer.request_id,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "time_to_first_token_s": None if asked.first is None else round(asked.first, 4),
        "seconds": round(asked.total, 4),
    }


def summary(answer: CompletionStream, asked: Stopwatch) -> str:
    """One line: tokens of the finished `answer`, time to the first, tokens a second after it."""
    tokens = answer.usage.output_tokens if answer.usage else 0
    parts = [f"{tokens} tokens"]
    if asked.first is not None:
        parts.append(f"first after {1000 * asked.first:.0f} ms")
        if tokens > 1 and asked.total > asked.first:
            parts.append(f"then {(tokens - 1) / (asked.total - asked.first):.0f} tokens/s")
    if answer.finish_reason == "length":
        parts.append("cut off at the limit of tokens (--max-tokens)")
    return ", ".join(parts)
