"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from enginewright_errors import EnginewrightError, UsageError

from enginewright.interrupt import Interrupted
from enginewright.progress import Reporter, choose_reporter
from enginewright.recipe import Recipe
from enginewright.trtllm_recipe import TrtllmRecipe
from enginewright.units import parse_bytes

__all__ = [
    "RECIPE_FIELDS",
    "BandwidthOption",
    "JsonOption",
    "Output",
    "ReasoningBudget",
    "RecipeArgument",
    "SetOption",
    "ThinkingOption",
    "bandwidth",
    "default_output",
    "reporting",
]

RECIPE_FIELDS = "Fields of the recipe"

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A .yaml recipe, a bundled one by name, a checkpoint folder, or org/name of the hub.",
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder of the repository [default: ./models/NAME].")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON event a line, the last is the result.")]
BandwidthOption = Annotated[
    str | None,
    typer.Option("--memory-bandwidth", metavar="SIZE", help="Read bandwidth, like 40GB/s, not measured."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Any field, like engine.threads=2.",
        rich_help_panel=RECIPE_FIELDS,
    ),
]


ReasoningBudget = Annotated[
    int | None,
    typer.Option("--max-reasoning-tokens", help="Tokens of thinking, after which the answer begins."),
]
ThinkingOption = Annotated[
    str, typer.Option("--thinking", metavar="show|fold|hide", help="What to do with a model's thinking.")
]


@contextmanager
def reporting(json_lines: bool) -> Iterator[Reporter]:
    """The reporter of a command. With JSON lines an error is the result, beside the lines on stderr."""
    reporter = choose_reporter(json_lines=json_lines)
    try:
        yield reporter
    except EnginewrightError as error:
        if json_lines:
            text = {"code": error.code, "message": error.message, "hint": error.hint}
            reporter.result("", {"ok": False, "error": text, "exit_code": error.exit_code})
        raise
    except Interrupted as interrupt:
        if json_lines:
            text = {"code": "interrupted", "message": f"stopped by {interrupt}", "hint": "run it again"}
            reporter.result("", {"ok": False, "error": text, "exit_code": 128 + interrupt.number})
        raise


def default_output(recipe: Recipe | TrtllmRecipe) -> Path:
    """`./models/NAME`."""
    return Path("models") / recipe.name


def bandwidth(text: str | None) -> float | None:
    """Bytes a second of "40GB" or "40GB/s". Raises UsageError."""
    if text is None:
        return None
    try:
        value = float(parse_bytes(text.removesuffix("/s")))
    except ValueError as error:
        raise UsageError(f"--memory-bandwidth: {error}", code="usage", hint="write it like 40GB/s") from None
    if value < 1e6:
        raise UsageError(f"--memory-bandwidth {text} is too small", code="usage", hint="write it like 40GB/s")
    return value
