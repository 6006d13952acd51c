"""What this machine has for a build: cores, memory, and how fast it reads memory and multiplies."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Machine", "available_memory", "free_disk", "probe_machine"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_READ_BYTES = 64 * 1024**2  # of each thread; beyond the last-level cache of most servers
_MATRIX = 1024


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory in bytes, read bandwidth in bytes a second, float32 speed in operations a second."""

    cores: int
    memory_available: int
    read_bandwidth: float
    flops: float


def probe_machine(read_bandwidth: float | None = None) -> Machine:
    """Measure for some 0.2 s. `read_bandwidth`, where it is known, replaces the measured one."""
    cores = len(os.sched_getaffinity(0))
    return Machine(cores, available_memory(), read_bandwidth or _read_bandwidth(cores), _flops(cores))


def available_memory() -> int:
    """Bytes that a new process can have: the kernel's estimate, or what a control group leaves."""
    available = 1024 * _meminfo().get("MemAvailable", 0)
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        if limit != "max":
            available = min(available, max(0, int(limit) - used))
    except (OSError, ValueError):
        pass
    return available


def free_disk(path: Path) -> int:
    """Free bytes for this user on the file system that `path` is on, or will be on."""
    existing = path
    while not existing.exists():
        existing = existing.parent
    status = os.statvfs(existing)
    return status.f_bavail * status.f_frsize


def _meminfo() -> dict[str, int]:
    values = {}
    for line in _MEMINFO.read_text().splitlines():
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0])
    return values


def _read_bandwidth(threads: int) -> float:
    """Bytes a second of all threads together, each summing its own block.

    By the threads' CPU time, so that other work on the machine does not pass for slow memory.
    """

    def rate(block: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
        best = 0.0
        for _ in range(3):
            start = time.thread_time()
            block.sum()
            best = max(best, block.nbytes / max(time.thread_time() - start, 1e-9))
        return best

    blocks = [np.ones(_READ_BYTES // 8, np.int64) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(rate, blocks))


def _flops(cores: int) -> float:
    """Float32 operations a second of a matrix product on all cores, by CPU time as above."""
    matrix = np.ones((_MATRIX, _MATRIX), np.float32)
    best = 0.0
    for _ in range(3):
        start = time.process_time()
        matrix @ matrix
        best = max(best, 2 * _MATRIX**3 / max(time.process_time() - start, 1e-9))
    return best * cores
