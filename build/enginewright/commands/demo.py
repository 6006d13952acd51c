"""`enginewright demo`: checkpoint -> INT4-AWQ -> ONNX engine -> Triton -> a streamed answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from enginewright.answer_screen import AnswerScreen
from enginewright.answer_speed import AnswerSpeed
from enginewright.commands.build import run_build
from enginewright.load_recipe import load_recipe
from enginewright.progress import choose_reporter
from enginewright.units import format_seconds

if TYPE_CHECKING:
    from enginewright_client import SamplingParams

__all__ = ["demo"]

RECIPE = "smollm2-135m-int4-awq"


def demo(
    question: Annotated[str, typer.Argument(help="What to ask.")] = "What is the capital of France?",
    recipe: Annotated[str, typer.Option(help="The recipe to build.")] = RECIPE,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Length of the answer.")] = 128,
) -> None:
    """Build a small chat model, serve it with Triton, ask it a question, stop everything.

    The first run fetches SmolLM2-135M-Instruct (93 MB) and quantizes it; later runs reuse every stage.
    """
    from enginewright_client import SamplingParams
    from enginewright_serve import TritonServer

    start = time.monotonic()
    repository = run_build(load_recipe(recipe), None, choose_reporter(json_lines=False))
    server = TritonServer(repository)
    try:
        with _timed("start"):
            server.start()
        print(f"{'':<9} gRPC on {server.grpc_address}, metrics on {server.metrics_address}", flush=True)
        _ask(server.grpc_address, question, SamplingParams(max_tokens=max_tokens))
    finally:
        with _timed("stop"):
            server.stop()
    print(f"{'in all':<9} {'done':<6} {format_seconds(time.monotonic() - start):>10}")


def _ask(address: str, question: str, sampling: SamplingParams) -> None:
    """Print the answer as it comes, then how fast it came."""
    from enginewright_client import TritonClient
    from rich.console import Console

    print(f"\n> {question}\n", flush=True)
    messages = [{"role": "user", "content": question}]
    screen = AnswerScreen(Console(soft_wrap=True), "show")
    with TritonClient(address) as client, client.chat_stream(messages, sampling) as answer:
        speed = AnswerSpeed()
        for delta in answer:
            speed.piece(delta.usage)
            screen.show(delta.content, delta.reasoning)
    screen.end()
    print(f"\n{speed}\n", flush=True)


@contextmanager
def _timed(name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    print(f"{name:<9} {'done':<6} {format_seconds(time.monotonic() - start):>10}", flush=True)
