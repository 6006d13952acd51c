"""A build that keeps its gate: the costliest layers stay unquantized, as few as will do (`gate.repair`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from enginewright.pipeline import BuildResult, build
from enginewright.progress import Reporter
from enginewright.quality.figures import LayerCost
from enginewright.quality.gate import QualityGateFailed
from enginewright.recipe import Recipe

__all__ = ["build_within_gate", "layers_to_keep"]

_GROWTH = 1.5  # of the number of layers, where an attempt was not enough


def build_within_gate(
    recipe: Recipe,
    output: Path,
    *,
    reporter: Reporter,
    cache_folder: Path | None = None,
    read_bandwidth: float | None = None,
    force: bool = False,
) -> BuildResult:
    """`build`; where the recipe allows repair, again with layers kept until the gate holds.

    Raises what `build` raises: QualityGateFailed of the last attempt, which keeps half of the layers. A model
    that needs more is better off in another format.
    """
    attempt = partial(
        build,
        output=output,
        reporter=reporter,
        cache_folder=cache_folder,
        read_bandwidth=read_bandwidth,
        force=force,
    )
    try:
        return attempt(recipe)
    except QualityGateFailed as failed:
        if not recipe.gate.repair or recipe.quantization.format == "none":
            raise
        last = failed
    reporter.say(f"repair: {last.message}; measuring each layer by itself")
    try:
        return attempt(_with(recipe, "report", sensitivity=True))
    except QualityGateFailed as failed:
        last = failed
    found = last.report.judged
    kl = found.mean_kl.value if found else 0.0
    for layers in layers_to_keep(last.report.layers, kl, last.bounds.max_kl):
        kept = sorted({*recipe.quantization.keep_layers, *layers})
        reporter.say(f"repair: keeping the layers {', '.join(map(str, kept))}", keep_layers=kept)
        try:
            return attempt(_with(recipe, "quantization", keep_layers=kept))
        except QualityGateFailed as failed:
            last = failed
    raise last


def layers_to_keep(costs: Sequence[LayerCost], kl: float, max_kl: float) -> Iterator[list[int]]:
    """What to try, from a few layers to half of them; all layers have one size, so the costliest come first.

    The first attempt believes that the layers' costs add up to `kl`.
    """
    ranked = sorted(costs, key=lambda cost: -cost.mean_kl)
    total = sum(cost.mean_kl for cost in ranked) or 1.0
    count, left = 0, kl
    while count < len(ranked) and (count == 0 or left > max_kl):
        left -= kl * ranked[count].mean_kl / total
        count += 1
    most = len(ranked) // 2
    while most:
        yield sorted(cost.layer for cost in ranked[: min(count, most)])
        if count >= most:
            return
        count = math.ceil(count * _GROWTH)


def _with(recipe: Recipe, section: str, **fields: object) -> Recipe:
    changed = getattr(recipe, section).model_copy(update=fields)
    return recipe.model_copy(update={section: changed})
