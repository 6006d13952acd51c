"""Goes on with a handed-off build: its recipe is still the same, and its rank files are whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginewright_errors import GateFailed, RecipeError

from enginewright.cache import Made, StageRequest
from enginewright.handoff import Handoff
from enginewright.hashing import Hasher, hashes_as_json
from enginewright.output import link_tree
from enginewright.steps import Advance, Inputs, Step
from enginewright.trtllm_recipe import TrtllmRecipe

__all__ = ["check_same_checkpoint", "taken_checkpoint_step"]

# The parts of a recipe that the rank files were written for.
_FIXED = (
    ("checkpoint",),
    ("quantization",),
    ("context",),
    ("report",),
    ("gate",),
    ("trtllm", "tp"),
    ("trtllm", "pp"),
    ("trtllm", "kv_cache"),
    ("trtllm", "max_seq_len"),
)


def check_same_checkpoint(handoff: Handoff, recipe: TrtllmRecipe) -> None:
    """Raise RecipeError for a field that was changed and can no longer be."""
    wanted = recipe.model_dump()
    for path in _FIXED:
        was, now = _at(handoff.recipe, path), _at(wanted, path)
        if was != now:
            raise RecipeError(
                f"{'.'.join(path)} is {now!r}, and {handoff.folder} was made with {was!r}",
                code="handoff-fixed",
                hint="leave it as it is, or build again from the recipe: the rank files depend on it",
            )


def taken_checkpoint_step(handoff: Handoff, hasher: Hasher) -> Step:
    """Takes the rank files into the cache, under the request that they answered elsewhere.

    `make` raises GateFailed for a file that is not what the manifest says.
    """
    link = handoff.chain["checkpoint"]

    def make(folders: Inputs, out: Path, advance: Advance) -> Made:
        found = hashes_as_json(hasher.tree(handoff.checkpoint, advance))
        for name in sorted({*found, *link["files"]}):
            if found.get(name) != link["files"].get(name):
                raise GateFailed(
                    f"{handoff.checkpoint / name} is not what the manifest says",
                    code="handoff-differs",
                    hint="copy the folder again",
                )
        link_tree(handoff.checkpoint, out)
        return Made(link["facts"])

    return Step(StageRequest(**link["request"]), make)


def _at(data: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for part in path:
        data = data[part]
    return data
