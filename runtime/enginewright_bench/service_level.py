"""A service level: bounds that a request keeps or does not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from enginewright_errors import UsageError

__all__ = ["ServiceLevel", "parse_service_level"]

_NAMES = {
    "ttft": "time_to_first_token",
    "itl": "inter_token_latency",
    "latency": "request_latency",
}
_PART = re.compile(r"(?P<name>[a-z_]+):(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s)")
_MS = {"ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """Upper bounds in milliseconds by the metric's name."""

    bounds: Mapping[str, float]

    def is_met(self, metrics: Mapping[str, float]) -> bool:
        """Whether a request keeps all bounds. A metric that it does not have (the gaps of a single token)
        cannot be too high; a failed request has none at all and is never good."""
        return bool(metrics) and all(metrics.get(name, 0.0) <= bound for name, bound in self.bounds.items())

    def __str__(self) -> str:
        short = {long: name for name, long in _NAMES.items()}
        return ",".join(f"{short[name]}:{bound:g}ms" for name, bound in self.bounds.items())


def parse_service_level(text: str) -> ServiceLevel:
    """`ttft:500ms,itl:50ms,latency:10s`; aiperf's long names are taken, too. Raises UsageError."""
    bounds = {}
    for part in text.replace(" ", "").split(","):
        match = _PART.fullmatch(part)
        name = match and _NAMES.get(match["name"], match["name"])
        if match is None or name not in _NAMES.values():
            raise UsageError(
                f"--slo: {part!r} is no bound", code="slo", hint="write ttft:500ms,itl:50ms or latency:10s"
            )
        bounds[str(name)] = float(match["number"]) * _MS[match["unit"]]
    return ServiceLevel(bounds)
