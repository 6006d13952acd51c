"""A whole benchmark: loads one after the other, or a search for a rate, and the folder they leave."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from enginewright_client import Completion, Metrics, ModelConfig, Prompt, SamplingParams
from enginewright_errors import UsageError

from enginewright_bench.count_tokens import LocalTokenizer, count_by_server
from enginewright_bench.export_point import export_point
from enginewright_bench.loads import Load, open_loads
from enginewright_bench.measure_load import Setup, measure_load
from enginewright_bench.observer import Observer
from enginewright_bench.physical_limit import PhysicalLimit
from enginewright_bench.provenance import Provenance
from enginewright_bench.result import (
    BenchResult,
    Point,
    Probe,
    RateSearch,
    Server,
    Skipped,
    write_result,
)
from enginewright_bench.results_folder import open_results_folder, writing_results
from enginewright_bench.search_rate import search_rate
from enginewright_bench.send_request import StreamingClient
from enginewright_bench.service_level import ServiceLevel
from enginewright_bench.workload import Workload
from enginewright_bench.write_prompt import PromptWriter

__all__ = ["Bench", "BenchClient", "RateQuestion"]


class BenchClient(StreamingClient, Protocol):
    """What a benchmark needs of a client. `enginewright_client.AsyncTritonClient` is one."""

    address: str
    model: str

    async def generate(
        self, prompt: Prompt, sampling: SamplingParams | None = None, *, timeout: float | None = None
    ) -> Completion: ...

    async def metrics(self) -> Metrics: ...


@dataclass(frozen=True, slots=True)
class RateQuestion:
    """The highest rate at which `fraction` of the requests keep the service level: where to begin."""

    workload: Workload
    start: float
    fraction: float
    requests: int | None = None
    warmup: int | None = None


@dataclass(slots=True)
class Bench:
    """A run against one server. `result` grows with each load and is on disk, with its files, after each.

    limit: or why it is unknown. folder: new or empty, else UsageError is raised, and StageFailed when it
    cannot be written later. settings: what the caller was asked for, kept in the result. compares_totals:
    read the server's counters before and after each load.
    """

    client: BenchClient
    config: ModelConfig
    folder: Path
    observer: Observer
    provenance: Provenance
    limit: PhysicalLimit | str
    level: ServiceLevel | None = None
    tokenizer: LocalTokenizer | None = None
    compares_totals: bool = False
    timeout: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    result: BenchResult = field(init=False)
    _setup: Setup = field(init=False)

    async def run(self, loads: Sequence[Load], skipped: Sequence[Skipped] = ()) -> BenchResult:
        """Measure `loads` in their order. Raises UsageError if two have the same label."""
        labels = [load.label for load in loads]
        if len(set(labels)) < len(labels):
            raise UsageError(f"the same load twice: {', '.join(labels)}", code="load", hint="name each once")
        self._begin(skipped, chat=any(load.workload.chat for load in loads))
        for load in loads:
            await self._measure(load)
        return self._finish()

    async def search(self, question: RateQuestion) -> BenchResult:
        """Find the rate; each probe is a load of the result. Needs `level`."""
        self._begin((), chat=question.workload.chat)
        probes: list[Probe] = []

        async def meets(rate: float) -> bool:
            [load] = open_loads(question.workload, [rate], question.requests, question.warmup)
            point = await self._measure(load)
            good = point.metrics["good_request_fraction"].avg
            met = good >= question.fraction
            probes.append(Probe(label=point.label, request_rate=rate, good_fraction=good, meets=met))
            return met

        met, failed = await search_rate(meets, question.start)
        search = RateSearch(
            service_level=str(self.level),
            required_fraction=question.fraction,
            request_rate=met,
            upper_rate=failed,
            probes=probes,
        )
        self.result = self.result.model_copy(update={"search": search})
        return self._finish()

    def _begin(self, skipped: Sequence[Skipped], *, chat: bool) -> None:
        name = uuid.uuid4().hex[:12]
        count = self.tokenizer.count if self.tokenizer and not chat else None
        self._setup = Setup(
            client=self.client,
            writer=PromptWriter(count or count_by_server(self.client, chat=chat, timeout=self.timeout)),
            observer=self.observer,
            name=name,
            seed=self.provenance.seed,
            timeout=self.timeout,
            level=self.level,
            limit=self.limit if isinstance(self.limit, PhysicalLimit) else None,
            tokenizer=self.tokenizer,
            metrics=self.client.metrics if self.compares_totals else None,
        )
        self.result = BenchResult(
            benchmark_id=name,
            started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            complete=False,
            settings=self.settings,
            server=Server(
                address=self.client.address,
                model=self.client.model,
                max_seq_len=self.config.max_seq_len,
                parameters=dict(self.config.parameters),
            ),
            provenance=self.provenance,
            limit=self._setup.limit,
            limit_unknown=self.limit if isinstance(self.limit, str) else None,
            service_level=str(self.level) if self.level else None,
            points=[],
            skipped=list(skipped),
            search=None,
        )
        open_results_folder(self.folder)
        for row in skipped:
            self.observer.skipped(row)
        self._write()

    async def _measure(self, load: Load) -> Point:
        measured = await measure_load(self._setup, load, len(self.result.points))
        points = [*self.result.points, measured.point]
        self.result = self.result.model_copy(update={"points": points})
        with writing_results(self.folder):
            export_point(self.result, measured.point, measured.requests, measured.records, self.folder)
        self._write()
        return measured.point

    def _finish(self) -> BenchResult:
        self.result = self.result.model_copy(update={"complete": True})
        self._write()
        return self.result

    def _write(self) -> None:
        with writing_results(self.folder):
            write_result(self.result, self.folder)
