"""The bounds that a quantized model has to keep, and which of them it breaks.

A model loses less to quantization the larger it is, so the defaults go by format and size. From 7 billion
parameters on they are what is expected of a release. Below 1 billion they leave SmolLM2-135M some room over
what it was measured to lose, as an engine (level 4, int8 head) on 508 positions of the built-in text, and for
INT4 on 4,064, too:

    format               mean KL      top-1          perplexity
    int4_awq, groups 64  0.27, 0.31   73.0%, 68.8%   1.22x, 1.31x
    int8_sq              0.069        83.3%          1.06x
    fp8                  0.022        92.9%          1.00x
    none                 0.0015       96.9%          1.00x

They have to be as tight: with the scales of one down_proj of 30 doubled, its INT4 checkpoint has a mean KL of
0.39 to 1.05 and 45% to 63% top-1. No model between the two sizes was measured: the middle row is the
geometric mean of its neighbours' losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginewright_errors import GateFailed

from enginewright.quality.figures import QualityReport
from enginewright.recipe import GateRecipe

__all__ = ["GateBounds", "QualityGateFailed", "check_gate", "gate_bounds"]


@dataclass(frozen=True, slots=True)
class GateBounds:
    """On held-out text, of the engine against the original checkpoint."""

    max_kl: float
    min_top1: float
    max_perplexity_ratio: float


class QualityGateFailed(GateFailed):
    """Quantization cost too much; `report` has all the figures, `bounds` what they had to keep."""

    def __init__(self, problems: Sequence[str], report: QualityReport, bounds: GateBounds) -> None:
        super().__init__(
            f"report: {'; '.join(problems)}",
            code="quality-gate",
            hint="more calibration samples, smaller groups, another quantization.format or gate.repair lose "
            "less; or move the bound in gate",
        )
        self.report = report
        self.bounds = bounds


# format -> (fewest parameters, bounds), the largest models first.
_DEFAULTS: dict[str, tuple[tuple[float, GateBounds], ...]] = {
    "int4_awq": (
        (7e9, GateBounds(0.05, 0.92, 1.05)),
        (1e9, GateBounds(0.14, 0.835, 1.14)),
        (0, GateBounds(0.38, 0.66, 1.40)),
    ),
    "int8_sq": (
        (7e9, GateBounds(0.03, 0.95, 1.03)),
        (1e9, GateBounds(0.067, 0.895, 1.067)),
        (0, GateBounds(0.15, 0.78, 1.15)),
    ),
    "fp8": (
        (7e9, GateBounds(0.01, 0.97, 1.01)),
        (1e9, GateBounds(0.022, 0.935, 1.022)),
        (0, GateBounds(0.05, 0.86, 1.05)),
    ),
    "none": ((0, GateBounds(0.01, 0.93, 1.01)),),
}


def gate_bounds(recipe: GateRecipe, quantization: str, parameters: int) -> GateBounds:
    """The recipe's bounds; the defaults for `quantization` and the model's size where it gives none."""
    default = next(bounds for least, bounds in _DEFAULTS[quantization] if parameters >= least)

    def chosen(own: float | None, other: float) -> float:
        return other if own is None else own

    return GateBounds(
        chosen(recipe.max_kl, default.max_kl),
        chosen(recipe.min_top1, default.min_top1),
        chosen(recipe.max_perplexity_ratio, default.max_perplexity_ratio),
    )


def check_gate(report: QualityReport, bounds: GateBounds) -> None:
    """Raises QualityGateFailed with each bound that the engine, or without one the checkpoint, breaks."""
    found = report.judged
    if found is None:
        return
    kl, top1, ratio = found.mean_kl.value, found.top1.value, found.perplexity_ratio.value
    broken = [
        f"{name} is {value:.4g}, it has to be {side} {bound:.4g}"
        for name, value, side, bound, holds in (
            ("mean KL from the original", kl, "at most", bounds.max_kl, kl <= bounds.max_kl),
            ("top-1 agreement", top1, "at least", bounds.min_top1, top1 >= bounds.min_top1),
            (
                "perplexity over the original's",
                ratio,
                "at most",
                bounds.max_perplexity_ratio,
                ratio <= bounds.max_perplexity_ratio,
            ),
        )
        if not holds
    ]
    if broken:
        raise QualityGateFailed(broken, report, bounds)
