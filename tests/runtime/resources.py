"""What a running server takes: memory of its own, descriptors, threads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from enginewright_serve import TritonServer, keeper


@dataclass(frozen=True)
class Resources:
    """private_mib: memory that is not shared, of Triton and its model processes together."""

    private_mib: float
    descriptors: int
    threads: int


def resources_of(server: TritonServer) -> Resources:
    """At this moment. The kernel counts RssAnon in pages; shared memory, which grows to the largest message
    and stays, is not in it."""
    processes = [Path("/proc", str(pid)) for pid in processes_of(server)]
    private = descriptors = threads = 0
    for process in processes:
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        private += int(status["RssAnon"].split()[0])
        threads += int(status["Threads"])
        descriptors += sum(1 for _ in (process / "fd").iterdir())
    return Resources(private / 1024, descriptors, threads)


def processes_of(server: TritonServer) -> list[int]:
    """tritonserver and its model processes."""
    assert server.pid is not None
    return [server.pid, *keeper.model_processes(server.log.parent.name)]


def is_flat(before: Resources, after: Resources) -> bool:
    """Nothing grew beyond what the allocators of three processes hold, and what gRPC's threads keep open."""
    return (
        after.private_mib < before.private_mib * 1.05 + 8
        and after.descriptors <= before.descriptors + 24
        and after.threads <= before.threads + 8
    )
