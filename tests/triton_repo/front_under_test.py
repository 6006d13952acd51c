"""A whole front around a scripted engine, without Triton: tensors go in, tensors come out."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from enginewright_errors import EnginewrightError
from enginewright_front.detokenizer import TokenTable
from enginewright_front.dispatcher import Dispatcher
from enginewright_front.front_config import FrontConfig
from enginewright_front.metrics import Metrics
from enginewright_front.preparation import Preparation
from enginewright_front.prompt import PromptEncoder
from enginewright_front.scripted_backend import ScriptedBackend
from enginewright_front.serve_settings import ServeSettings
from enginewright_front.wire import INPUT

DTYPES = {
    "TYPE_STRING": np.object_,
    "TYPE_INT32": np.int32,
    "TYPE_UINT64": np.uint64,
    "TYPE_FP32": np.float32,
    "TYPE_BOOL": np.bool_,
}
WAIT_SECONDS = 20.0
PROBE_ID = "the supervisor's"


def wire_tensors(values: dict[str, Any]) -> dict[str, np.ndarray]:
    """Inputs as a client sends them: scalars [1, 1], lists [1, n]."""
    made = {}
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        items = [item.encode() if isinstance(item, str) else item for item in items]
        made[name] = np.array([items], dtype=DTYPES[INPUT[name].data_type])
    return made


class Caller:
    """One request's caller: collects what comes back; may give up."""

    def __init__(self) -> None:
        self.gave_up = False
        self._answers: queue.Queue[tuple[dict[str, np.ndarray] | EnginewrightError, bool]] = queue.Queue()

    def send(self, tensors: dict[str, np.ndarray], *, final: bool) -> None:
        self._answers.put((tensors, final))

    def fail(self, error: EnginewrightError) -> None:
        self._answers.put((error, True))

    def is_cancelled(self) -> bool:
        return self.gave_up

    def answers(self) -> Iterator[dict[str, np.ndarray]]:
        """The responses until the final one; raises the error that ends them."""
        final = False
        while not final:
            answer, final = self._answers.get(timeout=WAIT_SECONDS)
            if isinstance(answer, EnginewrightError):
                raise answer
            yield answer

    def text(self) -> str:
        return "".join(answer["text_output"][0].decode() for answer in self.answers())

    @property
    def nothing_came(self) -> bool:
        return self._answers.empty()


class CountingFamily:
    """Stands in for Triton's MetricFamily: remembers values by name and labels."""

    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
    values: dict[str, list[float]]

    def __init__(self, name: str, description: str, kind: str) -> None:
        self._name = name

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> Any:
        values = self.values.setdefault("/".join([self._name, *labels.values()]), [])
        return SimpleNamespace(increment=values.append, set=values.append, observe=values.append)


class FrontUnderTest:
    """`ask(...)` gives the Caller of a new request."""

    def __init__(self, checkpoint: Path, backend: ScriptedBackend, config: FrontConfig) -> None:
        self.backend = backend
        encoder = PromptEncoder(checkpoint)
        self.tokenizer = encoder.tokenizer
        self.log: list[str] = []
        family = type("Family", (CountingFamily,), {"values": {}})
        self.metrics: dict[str, list[float]] = family.values
        self.dispatcher = Dispatcher(
            Preparation(config, encoder, backend.limits),
            TokenTable(self.tokenizer),
            backend,
            config.limits,
            Metrics(family),
            self.log.append,
            ServeSettings(probe_id=PROBE_ID, log_requests=False),
        )

    def ask(self, request_id: str = "", parameters: str = "", **values: Any) -> Caller:
        caller = Caller()
        self.dispatcher.admit(wire_tensors(values), parameters, request_id, caller)
        return caller

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)
