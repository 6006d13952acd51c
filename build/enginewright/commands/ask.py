"""`enginewright ask "..."`: one question to a running server, its answer streamed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer
from enginewright_errors import UsageError

from enginewright.answer_screen import AnswerScreen, thinking_mode
from enginewright.answer_speed import AnswerSpeed
from enginewright.commands import connection, options
from enginewright.interrupt import Interrupted, interruptible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enginewright_client import (
        ChatStream,
        CompletionStream,
        SamplingParams,
        TritonClient,
    )

__all__ = ["ask"]


def ask(
    question: Annotated[
        str | None, typer.Argument(help="The question; - or none at all reads standard input.")
    ] = None,
    server: connection.Server = connection.SERVER,
    model: connection.Model = connection.MODEL,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="A text to put below the question; - is standard input."
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Length of the answer.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Probability to choose from.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed gives the same answer.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="Instructions before the question.")] = None,
    max_reasoning_tokens: options.ReasoningBudget = None,
    thinking: options.ThinkingOption = "show",
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text, without the chat template.")] = False,
    token_file: connection.TokenFile = None,
    tls_ca: connection.TlsCa = None,
    tls_cert: connection.TlsCert = None,
    tls_key: connection.TlsKey = None,
    json_lines: options.JsonOption = False,
) -> None:
    """Ask a running server; the answer is printed as it is generated. Ctrl-C cancels it, there too.

    What is left out is the checkpoint's own setting. A pipe gets the answer alone, without the thinking.

    \b
    Examples:
        enginewright ask "What is the capital of France?"
        enginewright ask --system "Answer in one word." --temperature 0 < question.txt
        git diff | enginewright ask "Write a commit message for this." --file -
        enginewright ask --raw "Once upon a time" --max-tokens 100 --server 127.0.0.1:9001
    """
    from enginewright_client import SamplingParams, TritonClient
    from rich.console import Console

    mode, secured = thinking_mode(thinking), connection.Secured(token_file, tls_ca, tls_cert, tls_key)
    with _exit_quietly(), options.reporting(json_lines) as reporter, interruptible(clean=lambda: None):
        text = _with_files(_read(question), files or ())
        sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
        screen = _JsonScreen() if json_lines else AnswerScreen(Console(soft_wrap=True), mode)
        with (
            TritonClient(server, model=model, token=secured.token, tls=secured.tls) as client,
            _start(client, text, sampling, system, max_reasoning_tokens, raw=raw) as answer,
        ):
            speed = AnswerSpeed()
            said, thought = _show(answer, screen, speed)
        if json_lines:
            reporter.result("", {"ok": True, "text": said, "reasoning": thought, **_numbers(answer, speed)})
        elif sys.stderr.isatty():
            cut = (
                ", cut off at the limit of tokens (--max-tokens)" if answer.finish_reason == "length" else ""
            )
            print(f"{speed}{cut}", file=sys.stderr)


def _start(
    client: TritonClient,
    text: str,
    sampling: SamplingParams,
    system: str | None,
    max_reasoning_tokens: int | None,
    *,
    raw: bool,
) -> CompletionStream | ChatStream:
    if not raw:
        instructions = [] if system is None else [{"role": "system", "content": system}]
        messages = [*instructions, {"role": "user", "content": text}]
        return client.chat_stream(messages, sampling, max_reasoning_tokens=max_reasoning_tokens)
    for option, value in (("--system", system), ("--max-reasoning-tokens", max_reasoning_tokens)):
        if value is not None:
            raise _wrong(f"{option} has no place in a --raw text", f"drop {option} or --raw")
    return client.stream(text, sampling)


class _Screen(Protocol):
    def show(self, content: str, reasoning: str = "") -> None: ...

    def end(self) -> None: ...


class _JsonScreen:
    """An event a line."""

    def show(self, content: str, reasoning: str = "") -> None:
        for event, text in (("reasoning", reasoning), ("delta", content)):
            if text:
                print(json.dumps({"event": event, "text": text}), flush=True)

    def end(self) -> None:
        """Lines need no end."""


def _show(answer: CompletionStream | ChatStream, screen: _Screen, speed: AnswerSpeed) -> tuple[str, str]:
    """Show every piece at once; returns the whole answer and the whole thinking."""
    from enginewright_client import Delta

    said, thought = [], []
    try:
        for piece in answer:
            speed.piece(piece.usage)
            content = piece.text if isinstance(piece, Delta) else piece.content
            reasoning = "" if isinstance(piece, Delta) else piece.reasoning
            said.append(content)
            thought.append(reasoning)
            screen.show(content, reasoning)
    finally:
        screen.end()
    return "".join(said), "".join(thought)


@contextmanager
def _exit_quietly() -> Iterator[None]:
    """An interrupted answer needs no explanation."""
    try:
        yield
    except Interrupted as interrupt:
        print(file=sys.stderr)
        raise typer.Exit(128 + interrupt.number) from None


def _read(question: str | None) -> str:
    if question is None and sys.stdin.isatty():
        raise _wrong("no question", 'enginewright ask "What is ...?", or give a file by <')
    if question is None or question == "-":
        question = _decode("standard input", sys.stdin.buffer.read()).removesuffix("\n")
    if not question.strip():
        raise _wrong("the question is empty", 'enginewright ask "What is ...?"')
    return question


def _with_files(question: str, files: Sequence[Path]) -> str:
    """The question and below it each file with its name, as a model can tell them apart."""
    parts = [question]
    for file in files:
        if str(file) == "-":
            parts.append(_decode("standard input", sys.stdin.buffer.read()))
            continue
        try:
            text = _decode(str(file), file.read_bytes())
        except OSError as error:
            raise _wrong(f"{file} cannot be read: {error.strerror}", "change --file") from None
        parts.append(f"{file.name}:\n{text}")
    return "\n\n".join(parts)


def _decode(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _wrong(f"{name} is not UTF-8: {error.reason} at byte {error.start}", "convert it") from None


def _wrong(message: str, hint: str) -> UsageError:
    return UsageError(message, code="usage", hint=hint)


def _numbers(answer: CompletionStream | ChatStream, speed: AnswerSpeed) -> dict[str, object]:
    usage = answer.usage
    return {
        "finish_reason": answer.finish_reason,
        "request_id": answer.request_id,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "time_to_first_token_s": None if speed.first is None else round(speed.first, 4),
        "seconds": round(speed.total, 4),
    }
