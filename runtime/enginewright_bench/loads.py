"""What is run: a list of loads, from a sweep or from a profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from enginewright_errors import UsageError

from enginewright_bench.lengths import Lengths
from enginewright_bench.result import Skipped
from enginewright_bench.workload import Workload

__all__ = [
    "Load",
    "chat_workload",
    "closed_loads",
    "open_loads",
    "qwen_speed_loads",
]

_QWEN_INPUTS = (1, 6144, 14336, 30720, 63488, 129024)
_QWEN_OUTPUT = 2048
_QWEN_REQUESTS = 3


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement. Either `concurrency` users (closed loop) or `rate` requests a second (open loop).

    Raises UsageError for numbers that are too small.
    """

    label: str
    workload: Workload
    requests: int
    warmup: int
    concurrency: int | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        for name, number, least in (
            ("--concurrency", self.concurrency, 1),
            ("--requests", self.requests, 1),
            ("--warmup", self.warmup, 0),
        ):
            if number is not None and number < least:
                raise UsageError(f"{name} is {number}", code="load", hint=f"give at least {least}")
        if self.rate is not None:
            _check_rate(self.rate)


def closed_loads(
    workload: Workload, concurrency: Sequence[int], requests: int | None, warmup: int | None
) -> list[Load]:
    """A load for each number of users. Without `requests` five for each user, ten at least; without `warmup`
    one for each user."""
    return [
        Load(
            label=f"concurrency-{users}",
            workload=workload,
            requests=max(10, 5 * users) if requests is None else requests,
            warmup=users if warmup is None else warmup,
            concurrency=users,
        )
        for users in concurrency
    ]


def open_loads(
    workload: Workload, rates: Sequence[float], requests: int | None, warmup: int | None
) -> list[Load]:
    """A load for each rate. Without `requests` what arrives in half a minute, 20 at least.

    Raises UsageError for a rate that is not above 0 and finite.
    """
    for rate in rates:
        _check_rate(rate)
    return [
        Load(
            label=f"rate-{rate:.4g}",
            workload=workload,
            requests=max(20, round(30 * rate)) if requests is None else requests,
            warmup=2 if warmup is None else warmup,
            rate=rate,
        )
        for rate in rates
    ]


def qwen_speed_loads(
    context: int | None, output_tokens: int | None, requests: int | None, warmup: int | None
) -> tuple[list[Load], list[Skipped]]:
    """Qwen's published speed table, and its rows that the server's context has no room for.

    output_tokens: other than the table's 2048. Raises UsageError if no row is left.
    Source: qwen.readthedocs.io, speed benchmark (batch 1, 2048 new tokens).
    """
    outputs = _QWEN_OUTPUT if output_tokens is None else output_tokens
    loads, skipped = [], []
    for inputs in _QWEN_INPUTS:
        label = f"input-{inputs}"
        if context is not None and inputs + outputs > context:
            reason = f"{inputs} + {outputs} tokens are more than the server's context of {context}"
            skipped.append(Skipped(label=label, reason=reason))
            continue
        workload = Workload(outputs=Lengths(outputs), inputs=Lengths(inputs), context=context)
        loads.append(
            Load(
                label=label,
                workload=workload,
                requests=_QWEN_REQUESTS if requests is None else requests,
                warmup=1 if warmup is None else warmup,
                concurrency=1,
            )
        )
    if not loads:
        raise UsageError(
            f"--profile qwen-speed: {skipped[0].reason}",
            code="context-too-short",
            hint=f"give --output-tokens {max(1, (context or 2) // 2)}, or serve with a longer context",
        )
    return loads, skipped


def chat_workload(workload: Workload) -> Workload:
    """`workload` with the lengths of a chat."""
    lengths = Lengths(256, 256, "lognormal")
    return replace(workload, inputs=lengths, outputs=lengths, chat=True)


def _check_rate(rate: float) -> None:
    if not 0 < rate < float("inf"):
        raise UsageError(f"--request-rate is {rate:g}", code="load", hint="give one above 0")
