"""The result of a benchmark: `bench.json`, and the schema that it validates against."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from enginewright_errors import UsageError
from pydantic import BaseModel, ConfigDict, ValidationError

from enginewright_bench.physical_limit import LimitReached, PhysicalLimit
from enginewright_bench.point_metrics import FailureCount
from enginewright_bench.provenance import Provenance
from enginewright_bench.summary import Summary

__all__ = [
    "RESULT",
    "BenchResult",
    "Client",
    "Point",
    "Probe",
    "RateSearch",
    "Server",
    "ServerTotals",
    "Skipped",
    "TokenCheck",
    "read_result",
    "write_result",
]

RESULT = "bench.json"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Model):
    """Who was asked. parameters: what the model says of itself; `default.*` is the sampling that the requests
    left to it."""

    address: str
    model: str
    max_seq_len: int | None
    parameters: dict[str, str]


class Client(_Model):
    """What the load generator itself took. cpu_share: of one core, over the run."""

    cpu_seconds: float
    cpu_share: float
    messages: int
    cpu_us_per_message: float | None


class TokenCheck(_Model):
    """The server's counts against what was asked for and, with a tokenizer, against its text encoded again.

    input_mismatches: prompts whose length was not the one aimed at. short_answers: fewer tokens than asked.
    retokenized: tokens of the answers' texts encoded again; end tokens have no text, and a text may have a
    shorter spelling than the one that was generated.
    """

    input_mismatches: int
    short_answers: int
    retokenized: int | None = None
    counted: int | None = None


class ServerTotals(_Model):
    """What the server's metrics counted during a load, warm-up included, beside what its answers said."""

    counted: dict[str, float]
    expected: dict[str, float]
    agrees: bool


class Point(_Model):
    """One load and what came of it. folder: its files, relative to bench.json's folder."""

    label: str
    mode: Literal["closed", "open"]
    concurrency: int | None
    request_rate: float | None
    input_tokens: str
    output_tokens: str
    warmup_requests: int
    folder: str
    metrics: dict[str, Summary]
    failures: list[FailureCount]
    limit: LimitReached | None
    client: Client
    tokens: TokenCheck
    server_totals: ServerTotals | None
    warnings: list[str]


class Skipped(_Model):
    """A load of a profile that was not run, and why."""

    label: str
    reason: str


class Probe(_Model):
    """One rate that the search tried."""

    label: str
    request_rate: float
    good_fraction: float
    meets: bool


class RateSearch(_Model):
    """The highest request rate at which `required_fraction` of the requests kept the service level.

    request_rate: None if not even the lowest probe did. upper_rate: the lowest rate that failed, if one did.
    """

    service_level: str
    required_fraction: float
    request_rate: float | None
    upper_rate: float | None
    probes: list[Probe]


class BenchResult(_Model):
    """A whole benchmark. complete: False while loads are still to come (a run that was stopped keeps that).

    latency_from: what latencies count from. limit_unknown: why there is no limit.
    """

    format: Literal[1] = 1
    benchmark_id: str
    started: str
    complete: bool
    settings: dict[str, Any]
    server: Server
    provenance: Provenance
    limit: PhysicalLimit | None
    limit_unknown: str | None
    service_level: str | None
    latency_from: Literal["the scheduled arrival (open loop), the sending (closed loop)"] = (
        "the scheduled arrival (open loop), the sending (closed loop)"
    )
    points: list[Point]
    skipped: list[Skipped]
    search: RateSearch | None


def write_result(result: BenchResult, folder: Path) -> None:
    """Write `bench.json` in one step."""
    unfinished = folder / f".{RESULT}.new"
    unfinished.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    unfinished.replace(folder / RESULT)


def read_result(folder: Path) -> BenchResult:
    """The result in `folder`. Raises UsageError for a folder without a valid one."""
    path = folder / RESULT
    try:
        return BenchResult.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", code="no-result", hint="give the folder of a bench"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{path}: {where}: {first['msg']}",
            code="damaged-result",
            hint="run the benchmark again, or use the version that wrote it",
        ) from None
