"""Options that `build` and `plan` share, and what they change in a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from enginewright_errors import EnginewrightError, UsageError

from enginewright.interrupt import Interrupted
from enginewright.load_recipe import (
    Override,
    load_recipe,
    load_trtllm_recipe,
    parse_set,
    recipe_target,
)
from enginewright.progress import Reporter, choose_reporter
from enginewright.recipe import Recipe
from enginewright.trtllm_recipe import TrtllmRecipe
from enginewright.units import parse_bytes

__all__ = [
    "BandwidthOption",
    "CalibSize",
    "GpuOption",
    "GroupSize",
    "JsonOption",
    "MaxBatchSize",
    "MaxNumTokens",
    "MaxSeqLen",
    "Output",
    "QFormat",
    "RecipeArgument",
    "RecipeFlags",
    "Revision",
    "SetOption",
    "TpSize",
    "bandwidth",
    "default_output",
    "reporting",
]

_FIELDS = "Fields of the recipe"

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
QFormat = Annotated[
    str | None,
    typer.Option("--qformat", help="int4_awq, fp8, int8_sq or none.", rich_help_panel=_FIELDS),
]
GroupSize = Annotated[
    int | None, typer.Option("--group-size", help="Weights under one INT4 scale.", rich_help_panel=_FIELDS)
]
MaxSeqLen = Annotated[
    int | None, typer.Option("--max-seq-len", help="Prompt and answer, in tokens.", rich_help_panel=_FIELDS)
]
MaxNumTokens = Annotated[
    int | None, typer.Option("--max-num-tokens", help="Prompt tokens a step.", rich_help_panel=_FIELDS)
]
MaxBatchSize = Annotated[
    int | None, typer.Option("--max-batch-size", help="Requests decoded together.", rich_help_panel=_FIELDS)
]
CalibSize = Annotated[
    int | None, typer.Option("--calib-size", help="Calibration samples.", rich_help_panel=_FIELDS)
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Commit of a hub checkpoint.", rich_help_panel=_FIELDS)
]
TpSize = Annotated[
    int | None,
    typer.Option("--tp-size", help="Tensor parallelism of TensorRT-LLM.", rich_help_panel=_FIELDS),
]
GpuOption = Annotated[
    str | None,
    typer.Option("--gpu", help="A card, like H100-80: TensorRT-LLM engines for it.", rich_help_panel=_FIELDS),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Any field, like engine.threads=2.", rich_help_panel=_FIELDS
    ),
]


ReasoningBudget = Annotated[
    int | None,
    typer.Option("--max-reasoning-tokens", help="Tokens of thinking, after which the answer begins."),
]
ThinkingOption = Annotated[
    str, typer.Option("--thinking", metavar="show|fold|hide", help="What to do with a model's thinking.")
]


@dataclass(frozen=True, slots=True)
class RecipeFlags:
    """The flags that stand for fields, as given; None where a flag was not."""

    qformat: str | None = None
    group_size: int | None = None
    max_seq_len: int | None = None
    max_num_tokens: int | None = None
    max_batch_size: int | None = None
    calib_size: int | None = None
    revision: str | None = None
    tp_size: int | None = None
    gpu: str | None = None
    sets: Sequence[str] = ()

    def load(self, named: str) -> Recipe | TrtllmRecipe:
        """The recipe `named` with these flags, for its own target; a checkpoint alone with --gpu is for
        TensorRT-LLM."""
        bare = "onnx" if self.gpu is None else "trtllm"
        if recipe_target(named, [parse_set(text) for text in self.sets], bare=bare) == "trtllm":
            return self.load_trtllm(named)
        for flag, value in (("--tp-size", self.tp_size), ("--gpu", self.gpu)):
            if value not in (None, 1):
                raise UsageError(
                    f"{flag} {value}: an ONNX engine runs in one process, on a CPU",
                    code=flag.removeprefix("--"),
                    hint="leave it out, or build for GPUs: a recipe with target: trtllm",
                )
        return load_recipe(named, self._overrides("engine", "prefill_chunk"))

    def load_trtllm(self, named: str) -> TrtllmRecipe:
        """The recipe `named` with these flags, which has to be one for TensorRT-LLM."""
        return load_trtllm_recipe(named, self._overrides("trtllm", "max_num_tokens"))

    def _overrides(self, engine: str, step: str) -> list[Override]:
        """The flags as fields of the section `engine`; --set after the others, in its order."""
        qformat = self.qformat and self.qformat.replace("-", "_")
        fields: list[tuple[str, Any, str]] = [
            ("quantization.format", qformat, "--qformat"),
            ("quantization.group_size", self.group_size, "--group-size"),
            (f"{engine}.max_seq_len", self.max_seq_len, "--max-seq-len"),
            (f"{engine}.{step}", self.max_num_tokens, "--max-num-tokens"),
            (f"{engine}.max_batch_size", self.max_batch_size, "--max-batch-size"),
            ("quantization.calibration.samples", self.calib_size, "--calib-size"),
            ("checkpoint.revision", self.revision, "--revision"),
        ]
        if engine == "trtllm":
            fields += [("trtllm.tp", self.tp_size, "--tp-size"), ("trtllm.gpu", self.gpu, "--gpu")]
        given = [
            Override(tuple(path.split(".")), value, flag) for path, value, flag in fields if value is not None
        ]
        return [*given, *map(parse_set, self.sets)]


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
