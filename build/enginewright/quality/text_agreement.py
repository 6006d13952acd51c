"""Gathers the figures of models on texts, row by row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from enginewright.quality.bootstrap import BLOCK, bootstrap, bootstrap_mean
from enginewright.quality.figures import TextFigures, TextsFigures
from enginewright.quality.positions import KL, NLL, ORIGINAL_NLL, TOP1, TOP5, compare_positions

__all__ = ["TextAgreement"]

Logits = NDArray[np.float32]
Values = NDArray[np.float64]

_QUANTILES = np.linspace(0.0, 1.0, 21)


class TextAgreement:
    """`add` each text, then read `figures`."""

    def __init__(self) -> None:
        self._blocks: dict[str, list[Values]] = {}

    def add(self, original: Logits, models: Mapping[str, Logits], targets: NDArray[np.int32]) -> None:
        """One text: logits [positions, vocab] by model, and the true next tokens [positions]."""
        for name, rows in compare_positions(original, models, targets).items():
            self._blocks.setdefault(name, []).extend(_blocks(rows))

    def figures(self) -> TextsFigures | None:
        """None without a model or without a text."""
        if not self._blocks:
            return None
        blocks = next(iter(self._blocks.values()))
        return TextsFigures(
            positions=sum(map(len, blocks)),
            perplexity=bootstrap_mean(blocks, lambda mean: np.exp(mean[..., ORIGINAL_NLL])),
            checkpoint=self._figures("checkpoint"),
            engine=self._figures("engine"),
        )

    def _figures(self, name: str) -> TextFigures | None:
        blocks = self._blocks.get(name)
        if blocks is None:
            return None
        kl = np.concatenate(blocks)[:, KL]
        return TextFigures(
            perplexity=bootstrap_mean(blocks, lambda mean: np.exp(mean[..., NLL])),
            perplexity_ratio=bootstrap_mean(
                blocks, lambda mean: np.exp(mean[..., NLL] - mean[..., ORIGINAL_NLL])
            ),
            mean_kl=bootstrap_mean(blocks, lambda mean: mean[..., KL]),
            p99_kl=bootstrap(blocks, lambda rows: float(np.quantile(rows[:, KL], 0.99))),
            top1=bootstrap_mean(blocks, lambda mean: mean[..., TOP1]),
            top5=bootstrap_mean(blocks, lambda mean: mean[..., TOP5]),
            kl_quantiles=tuple(float(f"{value:.6g}") for value in np.quantile(kl, _QUANTILES)),
        )


def _blocks(values: Values) -> list[Values]:
    return [values[start : start + BLOCK] for start in range(0, len(values), BLOCK)]
