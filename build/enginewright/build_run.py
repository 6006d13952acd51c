"""What builds of every target do: bring the checkpoint here, hash it, obtain the stages, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginewright.cache import Cache, Entry, Made
from enginewright.checkpoint import Checkpoint
from enginewright.failures import explained
from enginewright.file_lock import FileLock
from enginewright.manifest import source_link
from enginewright.peak_memory import PeakMemory, release_memory
from enginewright.progress import Reporter
from enginewright.recipe import CheckpointRecipe
from enginewright.source import Source, resolve_source
from enginewright.steps import Step
from enginewright.units import format_bytes

__all__ = ["BuildResult", "BuildRun"]


@dataclass(frozen=True, slots=True)
class BuildResult:
    """manifest_sha256 names the build. reused: whether the cache had a stage. changed: output was written.

    next_steps: what is left for the user to do, "" after a whole build.
    """

    output: Path
    manifest_sha256: str
    changed: bool
    reused: dict[str, bool]
    report: dict[str, Any]
    next_steps: str = ""


@dataclass(slots=True)
class BuildRun:
    """One build: its cache, its voice, and the entries that it has so far."""

    cache: Cache
    reporter: Reporter
    entries: dict[str, Entry] = field(default_factory=dict)

    def fetch(self, wanted: CheckpointRecipe, before_weights: Callable[[Path], None]) -> Source:
        """Bring the checkpoint here. What `before_weights` raises ends this before weights are downloaded."""
        root = self.cache.root
        if Path(wanted.source).is_dir():
            return resolve_source(wanted, root)

        def progress(what: str, done: int, total: int) -> None:
            self.reporter.advance(done, total)

        # One at a time: a package is converted in a folder that only its maker may clean up.
        with (
            self.reporter.stage("fetch") as line,
            FileLock(root / "locks" / "fetch"),
            explained("fetch", root),
        ):
            source = resolve_source(wanted, root, before_weights=before_weights, progress=progress)
            line.verb, line.note = "ready", wanted.source
        return source

    def hash_source(self, source: Source, checkpoint: Checkpoint) -> dict[str, Any]:
        """The first link of the chain: every byte of the checkpoint is read in every build."""
        names = [path.name for path in checkpoint.files]
        with self.reporter.stage("source") as line, explained("source", source.folder):
            files = self.cache.hasher.files(source.folder, names, self.reporter.advance)
            line.verb, line.note = "hashed", format_bytes(sum(item.bytes for item in files.values()))
        return source_link(source, files)

    def obtain(self, step: Step, **inputs: Path) -> Entry:
        """The result of `step`, from the cache or made now, with its time and peak memory in the report."""
        stage = step.request.stage

        def make(folder: Path) -> Made:
            release_memory()
            peak, start = PeakMemory(), time.monotonic()
            made = step.make(inputs, folder, self.reporter.advance)
            figures = {"seconds": round(time.monotonic() - start, 3), "peak_memory_bytes": peak.bytes()}
            return Made(made.facts, {**made.report, **figures})

        with self.reporter.stage(stage) as line, explained(stage, self.cache.root):
            entry = self.cache.obtain(step.request, make, self.reporter.advance)
            line.verb = "reused" if entry.reused else "built"
            size = sum(item.bytes for item in entry.files.values())
            line.note = format_bytes(size) if size else str(entry.report.get("note", "passed"))
        self.entries[stage] = entry
        return entry

    def stage_reports(self, planned: Mapping[str, Any]) -> dict[str, Any]:
        """How each stage went, beside what was planned. `reused` ones report the build that made them."""
        return {
            name: {
                **entry.report,
                "reused": entry.reused,
                "disk_bytes": sum(item.bytes for item in entry.files.values()),
                "planned": planned.get(name),
            }
            for name, entry in self.entries.items()
        }

    @property
    def reused(self) -> dict[str, bool]:
        return {name: entry.reused for name, entry in self.entries.items()}
