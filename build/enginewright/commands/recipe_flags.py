"""The flags that stand for fields of a recipe: `build`, `plan` and `check` take the same."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import typer
from enginewright_errors import UsageError

from enginewright.commands.options import RECIPE_FIELDS, SetOption
from enginewright.load_recipe import Override, load_recipe, load_trtllm_recipe, parse_set, recipe_target
from enginewright.recipe import Recipe
from enginewright.trtllm_recipe import TrtllmRecipe

__all__ = ["RecipeFlags", "takes_recipe_flags"]


def _flag(name: str, help_text: str) -> Any:
    return typer.Option(name, help=help_text, rich_help_panel=RECIPE_FIELDS)


@dataclass(frozen=True, slots=True)
class RecipeFlags:
    """The flags as given, None where one was not. What a field is annotated with is the flag."""

    qformat: Annotated[str | None, _flag("--qformat", "int4_awq, fp8, int8_sq or none.")] = None
    group_size: Annotated[int | None, _flag("--group-size", "Weights under one INT4 scale.")] = None
    max_seq_len: Annotated[int | None, _flag("--max-seq-len", "Prompt and answer, in tokens.")] = None
    max_num_tokens: Annotated[int | None, _flag("--max-num-tokens", "Prompt tokens a step.")] = None
    max_batch_size: Annotated[int | None, _flag("--max-batch-size", "Requests decoded together.")] = None
    calib_size: Annotated[int | None, _flag("--calib-size", "Calibration samples.")] = None
    revision: Annotated[str | None, _flag("--revision", "Commit of a hub checkpoint.")] = None
    tp_size: Annotated[int | None, _flag("--tp-size", "Tensor parallelism of TensorRT-LLM.")] = None
    gpu: Annotated[str | None, _flag("--gpu", "A card, like H100-80: TensorRT-LLM engines for it.")] = None
    sets: SetOption = None

    def load(self, named: str) -> Recipe | TrtllmRecipe:
        """The recipe `named` with these flags, for its own target; a checkpoint alone with --gpu is for
        TensorRT-LLM."""
        bare = "onnx" if self.gpu is None else "trtllm"
        if recipe_target(named, self._sets(), bare=bare) == "trtllm":
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

    def _sets(self) -> list[Override]:
        return [parse_set(text) for text in self.sets or ()]

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
        return [*given, *self._sets()]


def takes_recipe_flags(command: Callable[..., None]) -> Callable[..., None]:
    """`command(..., flags: RecipeFlags)` as typer sees it: with an option for each field of `RecipeFlags`.

    typer reads a command's signature, and knows no parameter that is several options.
    """
    own = inspect.signature(command, eval_str=True)
    names = get_type_hints(RecipeFlags, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in names.items()
    ]
    others = [
        parameter.replace(kind=keyword) for name, parameter in own.parameters.items() if name != "flags"
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        flags = RecipeFlags(**{name: given.pop(name) for name in names})
        command(**given, flags=flags)

    signature = own.replace(parameters=[*others, *options])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return run
