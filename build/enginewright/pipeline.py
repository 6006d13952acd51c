"""plan, quantize, compile, verify, report, package: a recipe in, a verified model repository out."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from enginewright_errors import GateFailed

from enginewright.cache import Cache, Entry, Made, default_cache_folder
from enginewright.calibration import load_calibration
from enginewright.checkpoint import Checkpoint, open_checkpoint
from enginewright.failures import explained
from enginewright.file_lock import FileLock
from enginewright.machine import free_disk, probe_machine
from enginewright.manifest import make_manifest, manifest_key, source_link
from enginewright.model_spec import ModelSpec
from enginewright.output import OutputFolder
from enginewright.peak_memory import PeakMemory, release_memory
from enginewright.plan import Plan, Room, make_plan, require_fit
from enginewright.plan_text import plan_text
from enginewright.progress import Reporter
from enginewright.publish import keep_rejected, publish
from enginewright.quality.figures import read_quality_report
from enginewright.quality.gate import GateBounds, check_gate, gate_bounds
from enginewright.quality.texts import ReportTexts, load_report_texts
from enginewright.recipe import Recipe
from enginewright.source import Source, resolve_source
from enginewright.steps import Step, compile_step, package_step, quantize_step, report_step, verify_step
from enginewright.units import format_bytes

__all__ = ["BuildResult", "build", "plan_build"]


@dataclass(frozen=True, slots=True)
class BuildResult:
    """manifest_sha256 names the build. reused: whether the cache had a stage. changed: output was written."""

    output: Path
    manifest_sha256: str
    changed: bool
    reused: dict[str, bool]
    report: dict[str, Any]


def plan_build(
    recipe: Recipe, output: Path, *, cache_folder: Path | None = None, read_bandwidth: float | None = None
) -> Plan:
    """Price `recipe` without building. A hub checkpoint costs a few small files, not its weights."""
    cache_folder = cache_folder or default_cache_folder()
    room = _room(cache_folder, output, read_bandwidth)

    def stop(spec: ModelSpec) -> None:
        raise _Planned(make_plan(recipe, spec, room))

    try:
        source = resolve_source(recipe.checkpoint, cache_folder, before_weights=stop)
    except _Planned as planned:
        return planned.plan
    checkpoint = open_checkpoint(source.folder)
    return make_plan(recipe, checkpoint.spec, room, source_bytes=checkpoint.weight_bytes)


def build(
    recipe: Recipe,
    output: Path,
    *,
    reporter: Reporter,
    cache_folder: Path | None = None,
    read_bandwidth: float | None = None,
    force: bool = False,
) -> BuildResult:
    """Build `recipe` into the folder `output`; what the cache holds is verified and reused.

    read_bandwidth: of the memory in bytes a second, measured if not given. force: build even if the plan does
    not fit. Raises RecipeError, CheckpointError, DoesNotFit, StageFailed, GateFailed.
    """
    cache_folder = cache_folder or default_cache_folder()
    with OutputFolder(output) as folder, Cache(cache_folder, warn=reporter.warn) as cache:
        run = _Run(
            recipe, folder.path, cache, reporter, _room(cache.root, folder.path, read_bandwidth), force
        )
        source = run.fetch()
        checkpoint = open_checkpoint(source.folder)
        plan = run.plan(checkpoint)
        link = run.hash_source(source, checkpoint)
        calibration = None
        if recipe.quantization.format != "none":
            calibration = load_calibration(recipe.quantization.calibration, source.folder).sha256
        texts = load_report_texts(recipe.report, source.folder, plan.limits.max_seq_len)
        bounds = gate_bounds(recipe.gate, recipe.quantization.format, plan.sizes.parameters)
        if plan.shortages and not force:
            plan = run.plan(checkpoint, run.cached(plan, link["digest"], calibration, texts, bounds))
            require_fit(plan)

        quantized = run.obtain(quantize_step(recipe, link["digest"], calibration), source=source.folder)
        engine = run.obtain(compile_step(recipe, plan.limits, quantized.digest), checkpoint=quantized.folder)
        made = {"checkpoint": quantized.folder, "engine": engine.folder}
        try:
            verified = run.obtain(verify_step(recipe, quantized.digest, engine.digest), **made)
            measured = run.obtain(
                report_step(recipe, link["digest"], quantized.digest, engine.digest, texts),
                source=source.folder,
                **made,
            )
            check_gate(read_quality_report(measured.report["measured"]), bounds)
        except GateFailed as error:
            manifest = make_manifest(plan, link, calibration, run.entries)
            kept = keep_rejected(folder.path, engine, manifest, run.report(plan, bounds), error)
            error.hint = f"{error.hint}; the rejected engine is in {kept}"
            raise
        repository = run.obtain(
            package_step(
                recipe,
                quantized.digest,
                engine.digest,
                verified.request.key,
                measured.request.key,
                bounds,
            ),
            **made,
        )
        manifest, report = make_manifest(plan, link, calibration, run.entries), run.report(plan, bounds)
        with explained("output", folder.path):
            published = publish(folder, repository, manifest, report, cache)
    reused = {name: entry.reused for name, entry in run.entries.items()}
    return BuildResult(published.folder, published.manifest_sha256, published.changed, reused, report)


class _Planned(Exception):
    """Ends `resolve_source` before it downloads weights that nobody asked for."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan


@dataclass(slots=True)
class _Run:
    """One build: where it happens, and what it has so far."""

    recipe: Recipe
    output: Path
    cache: Cache
    reporter: Reporter
    room: Room
    force: bool
    shown: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)

    def fetch(self) -> Source:
        """Bring the checkpoint here. A plan that does not fit ends this before weights are downloaded."""
        wanted, root = self.recipe.checkpoint, self.cache.root
        if Path(wanted.source).is_dir():
            return resolve_source(wanted, root)

        def before_weights(spec: ModelSpec) -> None:
            plan = make_plan(self.recipe, spec, self.room)
            self.show(plan)
            if not self.force:
                require_fit(plan)

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

    def plan(self, checkpoint: Checkpoint, cached: Collection[str] = ()) -> Plan:
        """The plan with the checkpoint's true size, shown if none was before."""
        plan = make_plan(
            self.recipe,
            checkpoint.spec,
            self.room,
            source_bytes=checkpoint.weight_bytes,
            cached=cached,
        )
        self.show(plan)
        return plan

    def show(self, plan: Plan) -> None:
        if not self.shown:
            self.reporter.say(plan_text(plan), plan=plan.as_json())
            self.shown = True

    def hash_source(self, source: Source, checkpoint: Checkpoint) -> dict[str, Any]:
        """The first link of the chain: every byte of the checkpoint is read in every build."""
        names = [path.name for path in checkpoint.files]
        with self.reporter.stage("source") as line, explained("source", source.folder):
            files = self.cache.hasher.files(source.folder, names, self.reporter.advance)
            line.verb, line.note = "hashed", format_bytes(sum(item.bytes for item in files.values()))
        return source_link(source, files)

    def cached(
        self, plan: Plan, source: str, calibration: str | None, texts: ReportTexts, bounds: GateBounds
    ) -> set[str]:
        """The stages whose results the cache has, as far as names tell: they need no room any more."""
        names = set[str]()
        quantized = self.cache.peek(quantize_step(self.recipe, source, calibration).request)
        if quantized is None:
            return names
        names.add("quantize")
        engine = self.cache.peek(compile_step(self.recipe, plan.limits, quantized).request)
        if engine is None:
            return names
        names.add("compile")
        verified = verify_step(self.recipe, quantized, engine).request
        report = report_step(self.recipe, source, quantized, engine, texts).request
        package = package_step(self.recipe, quantized, engine, verified.key, report.key, bounds).request
        requests = (verified, report, package)
        names.update(request.stage for request in requests if self.cache.peek(request) is not None)
        if manifest_key(self.output, "package") == package.key:
            names.add("output")
        return names

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

    def report(self, plan: Plan, bounds: GateBounds) -> dict[str, Any]:
        """How it went, beside what was planned. `reused` stages report the build that made them."""
        planned = {stage.name: stage for stage in plan.stages}
        stages = {
            name: {
                **entry.report,
                "reused": entry.reused,
                "disk_bytes": sum(item.bytes for item in entry.files.values()),
                "planned": asdict(planned[name]),
            }
            for name, entry in self.entries.items()
        }
        return {"plan": plan.as_json(), "gate": asdict(bounds), "stages": stages}


def _room(cache: Path, output: Path, read_bandwidth: float | None) -> Room:
    same = _device(cache) == _device(output)
    return Room(probe_machine(read_bandwidth), free_disk(cache), None if same else free_disk(output))


def _device(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return path.stat().st_dev
