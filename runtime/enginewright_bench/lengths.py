"""How many tokens a prompt or an answer has: always the same, or drawn from a distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from enginewright_errors import UsageError

__all__ = ["Lengths", "Shape"]

Shape = Literal["normal", "lognormal"]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens. std 0 is a fixed length; mean and std are those of the distribution before it is cut at 1.

    Raises UsageError for a mean below 1 or a negative std.
    """

    mean: int
    std: float = 0.0
    shape: Shape = "normal"

    def __post_init__(self) -> None:
        if self.mean < 1 or not 0 <= self.std < float("inf"):
            raise UsageError(
                f"a length of {self.mean} tokens with a standard deviation of {self.std:g}",
                code="length",
                hint="give a mean of at least 1 and a standard deviation of at least 0",
            )

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """`count` lengths, each at least 1."""
        if self.std == 0:
            return [self.mean] * count
        if self.shape == "normal":
            drawn = rng.normal(self.mean, self.std, count)
        else:
            variance = np.log1p((self.std / self.mean) ** 2)
            drawn = rng.lognormal(np.log(self.mean) - variance / 2, np.sqrt(variance), count)
        return [int(length) for length in np.maximum(1, np.rint(drawn))]

    def __str__(self) -> str:
        return f"{self.mean}" if self.std == 0 else f"{self.mean} +- {self.std:g} ({self.shape})"
