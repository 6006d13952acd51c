"""docs/operating.md names the metrics that there are, with their labels, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from enginewright_front.metrics import Metrics

GUIDE = (Path(__file__).resolve().parent.parent / "docs/operating.md").read_text(encoding="utf-8")


class Family:
    """Remembers what is registered: kind and labels by name."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
    made: dict[str, tuple[str, set[str]]]

    def __init__(self, name: str, description: str, kind: str) -> None:
        self._labels: set[str] = set()
        self.made[name] = (kind, self._labels)

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> Family:
        self._labels.update(labels)
        return self

    def set(self, value: float) -> None:
        """A gauge's first value."""


def test_the_table_of_metrics_is_complete_and_true() -> None:
    family = type("Recorded", (Family,), {"made": {}})
    Metrics(family)
    there = {}
    for name, (kind, labels) in family.made.items():
        short = name.removeprefix("enginewright_")
        if short.endswith(("_bucket", "_sum", "_count")):  # a histogram that is counted by hand
            there[short.rpartition("_")[0]] = {"histogram"}
        else:
            there[short] = {"histogram"} if kind == Family.HISTOGRAM else labels
    there["failures_total"] = {"cause"}  # made with the first failure
    rows = re.findall(r"^\| `(\w+)` \| (\S*) ?\| ", GUIDE, re.MULTILINE)
    told = {name: {labels.strip("`")} - {""} for name, labels in rows}
    assert told == there


def test_alerts_are_on_metrics_that_exist() -> None:
    named = set(re.findall(r"enginewright_(\w+)[\[{ ]", re.findall(r"```promql\n(.*?)```", GUIDE, re.S)[0]))
    assert named
    assert all(f"`{name.removesuffix('_bucket')}`" in GUIDE for name in named)
