"""The builds that a comparison makes of one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from enginewright_errors import UsageError

from enginewright.recipe import GateRecipe, QuantizationRecipe, Recipe

__all__ = ["Variant", "make_variants", "parse_formats"]

_FORMATS: tuple[str, ...] = get_args(QuantizationRecipe.model_fields["format"].annotation)
# A comparison shows what is lost; it does not judge.
_OPEN = GateRecipe(max_kl=100.0, min_top1=0.0, max_perplexity_ratio=1000.0)


@dataclass(frozen=True, slots=True)
class Variant:
    label: str
    recipe: Recipe


def parse_formats(text: str) -> tuple[str, ...]:
    """The formats of "int4_awq,fp8", each once. Raises UsageError naming what is none."""
    names = tuple(dict.fromkeys(part.strip().replace("-", "_") for part in text.split(",") if part.strip()))
    for name in names:
        if name not in _FORMATS:
            raise UsageError(
                f"--formats: {name!r} is no format", code="formats", hint=f"choose from {', '.join(_FORMATS)}"
            )
    if not names:
        raise UsageError("--formats names none", code="formats", hint=f"choose from {', '.join(_FORMATS)}")
    return names


def make_variants(recipe: Recipe, formats: Sequence[str], *, calibration: bool) -> list[Variant]:
    """A build for each format. calibration: and the first one calibrated the other way, if it is at all.

    The other way is plain text for a recipe with `chat_template: true`, and the chat template for the rest.
    """
    variants = [Variant(name, _changed(recipe, name, format=name)) for name in formats]
    calibrated = next((name for name in formats if name != "none"), None)
    if calibration and calibrated is not None:
        own = recipe.quantization.calibration
        other = own.model_copy(update={"chat_template": not own.chat_template})
        how = "chat" if other.chat_template else "plain"
        changed = _changed(recipe, f"{calibrated}-{how}", format=calibrated, calibration=other)
        label = f"{calibrated}, calibrated on {'chat' if other.chat_template else 'plain text'}"
        variants.insert(formats.index(calibrated) + 1, Variant(label, changed))
    return variants


def _changed(recipe: Recipe, name: str, **quantization: Any) -> Recipe:
    """Engine and checkpoint still have to agree; what the engine answers is not judged."""
    changed = recipe.quantization.model_copy(update=quantization)
    verify = recipe.verify.model_copy(update={"smoke_expect": None})
    return recipe.model_copy(update={"name": name, "quantization": changed, "verify": verify, "gate": _OPEN})
