"""Mixed load on a supervised server for a given time, and whether it is the same at the end.

    python -m runtime.soak REPOSITORY --seconds 1800      (with tests/ on PYTHONPATH)

Short and long prompts, streams, answers at once, streams left early, requests that cannot be right.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from enginewright_client import ConnectError, InvalidRequest, SamplingParams, ServerOverloaded, TritonClient
from enginewright_serve import Supervisor, TritonServer
from runtime.resources import Resources, is_flat, resources_of

CONCURRENCY = 16
_LOOKS = 60  # at what the server takes, over the whole time


@dataclass
class Life:
    """One life of the server: what it took at each look. A restart by the supervisor begins another."""

    pid: int
    looks: list[Resources] = field(default_factory=list)

    @property
    def settled(self) -> list[Resources]:
        """Without its first quarter, in which everything is allocated once; empty if it was too short."""
        return self.looks[len(self.looks) // 4 :] if len(self.looks) >= 8 else []

    @property
    def grew(self) -> bool:
        return bool(self.settled) and not is_flat(self.settled[0], self.settled[-1])


@dataclass
class SoakReport:
    """outcomes: requests by how they ended; "unexpected: ..." is what should not be. seconds: how long the
    requests took that were read to the end, in the order they ended. restarts: by the supervisor."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    lost_slots: float = 0.0

    def p99(self, part: int) -> float:
        """The 99th percentile of the first (0), second or last (2) third, in seconds."""
        third = len(self.seconds) // 3
        values = sorted(self.seconds[part * third : (part + 1) * third])
        return values[int(len(values) * 0.99)] if values else 0.0

    def unexpected(self) -> dict[str, int]:
        return {outcome: n for outcome, n in self.outcomes.items() if outcome.startswith("unexpected")}

    def __str__(self) -> str:
        return (
            f"{sum(self.outcomes.values())} requests {dict(self.outcomes)}, restarts {self.restarts}\n"
            f"p99 {self.p99(0):.2f} s, {self.p99(1):.2f} s, {self.p99(2):.2f} s, "
            f"lives of {[len(life.looks) for life in self.lives]} looks\n"
            + "\n".join(f"{life.settled[0]} -> {life.settled[-1]}" for life in self.lives if life.settled)
        )


def soak(repository: Path, *, seconds: float) -> SoakReport:
    """The load, with 16 requests at a time."""
    report = SoakReport()
    with TritonServer(repository) as server, ThreadPoolExecutor(CONCURRENCY + 1) as threads:
        supervisor = Supervisor(server, report.restarts.append)
        supervising = threads.submit(supervisor.run)
        ending = threading.Event()
        workers = [
            threads.submit(_work, server.grpc_address, number, ending, report)
            for number in range(CONCURRENCY)
        ]
        try:
            for _ in range(_LOOKS):
                ending.wait(seconds / _LOOKS)
                _look(server, report.lives)
        finally:
            ending.set()
            for worker in workers:
                worker.result()
            supervisor.stop()
            supervising.result()
        report.lost_slots = _slots_that_stay_taken(server)
        _look(server, report.lives)
    return report


def _look(server: TritonServer, lives: list[Life]) -> None:
    """Note what the server takes, unless it is being started again."""
    if (pid := server.pid) is None:
        return
    try:
        look = resources_of(server)
    except (FileNotFoundError, ProcessLookupError):
        return
    if not lives or lives[-1].pid != pid:
        lives.append(Life(pid))
    lives[-1].looks.append(look)


def _work(address: str, number: int, ending: threading.Event, report: SoakReport) -> None:
    generator = random.Random(number)
    with TritonClient(address, timeout=300) as client:
        while not ending.is_set():
            started = time.monotonic()
            try:
                outcome = _one_request(client, generator)
            except InvalidRequest:
                outcome = "refused"
            except ServerOverloaded:
                outcome = "overloaded"
            except ConnectError:
                outcome = "connection lost"
                while not (client.health().generates or ending.wait(0.2)):
                    pass
            except Exception as error:
                outcome = f"unexpected: {error!r}"
            report.outcomes[outcome] += 1
            if outcome in ("streamed", "answered"):
                report.seconds.append(time.monotonic() - started)


def _one_request(client: TritonClient, generator: random.Random) -> str:
    prompt = "word " * generator.choice([1, 5, 20, 400])
    sampling = SamplingParams(
        max_tokens=generator.choice([1, 8, 64]), temperature=1.0, seed=generator.getrandbits(32)
    )
    kind = generator.choices(["streamed", "answered", "left", "wrong"], [4, 2, 3, 1])[0]
    if kind == "wrong":
        client.generate(prompt, SamplingParams(max_tokens=generator.choice([0, 10**6])))
    elif kind == "answered":
        client.generate(prompt, sampling)
    else:
        with client.stream(prompt, sampling) as answer:
            for count, _ in enumerate(answer):
                if kind == "left" and count >= generator.randrange(5):
                    break
    return kind


def _slots_that_stay_taken(server: TritonServer) -> float:
    from runtime.conftest import metric

    deadline = time.monotonic() + 30
    while taken := metric(server, "enginewright_requests_active"):
        if time.monotonic() > deadline:
            return taken
        time.sleep(0.1)
    return 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--seconds", type=float, default=1800)
    given = parser.parse_args()
    print(soak(given.repository, seconds=given.seconds))
