"""plan, quantize, compile, verify, report, package: a recipe in, a verified model repository out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import GateFailed

from enginewright.build_run import BuildResult, BuildRun
from enginewright.cache import Cache, default_cache_folder
from enginewright.calibration import load_calibration
from enginewright.checkpoint import Checkpoint, check_config, open_checkpoint
from enginewright.failures import explained
from enginewright.machine import free_disk, probe_machine
from enginewright.manifest import first_links, make_manifest, manifest_key
from enginewright.output import OutputFolder
from enginewright.plan import Plan, Room, make_plan, require_fit
from enginewright.plan_text import plan_text
from enginewright.progress import Reporter
from enginewright.publish import keep_rejected, publish
from enginewright.quality.figures import read_quality_report
from enginewright.quality.gate import GateBounds, check_gate, gate_bounds
from enginewright.quality.texts import ReportTexts, load_report_texts
from enginewright.recipe import Recipe
from enginewright.source import resolve_source
from enginewright.steps import compile_step, package_step, quantize_step, report_step, verify_step

__all__ = ["BuildResult", "build", "plan_build"]


def plan_build(
    recipe: Recipe, output: Path, *, cache_folder: Path | None = None, read_bandwidth: float | None = None
) -> Plan:
    """Price `recipe` without building. A hub checkpoint costs a few small files, not its weights."""
    cache_folder = cache_folder or default_cache_folder()
    room = _room(cache_folder, output, read_bandwidth)

    def stop(folder: Path) -> None:
        raise _Planned(make_plan(recipe, check_config(folder), room))

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
        run = BuildRun(cache, reporter)
        planner = _Planner(recipe, run, folder.path, _room(cache.root, folder.path, read_bandwidth), force)
        source = run.fetch(recipe.checkpoint, planner.before_weights)
        checkpoint = open_checkpoint(source.folder)
        plan = planner.plan(checkpoint)
        link = run.hash_source(source, checkpoint)
        calibration = None
        if recipe.quantization.format != "none":
            calibration = load_calibration(recipe.quantization.calibration, source.folder).sha256
        texts = load_report_texts(recipe.report, source.folder, plan.limits.max_seq_len)
        bounds = gate_bounds(recipe.gate, recipe.quantization.format, plan.sizes.parameters)
        if plan.shortages and not force:
            plan = planner.plan(checkpoint, planner.cached(plan, link["digest"], calibration, texts, bounds))
            require_fit(plan)

        quantized = run.obtain(quantize_step(recipe, link["digest"], calibration), source=source.folder)
        engine = run.obtain(compile_step(recipe, plan.limits, quantized.digest), checkpoint=quantized.folder)
        made = {"checkpoint": quantized.folder, "engine": engine.folder}

        def manifest() -> dict[str, Any]:
            return make_manifest(recipe, plan.figures(), first_links(link, calibration), run.entries)

        def report() -> dict[str, Any]:
            stages = run.stage_reports({stage.name: asdict(stage) for stage in plan.stages})
            return {"plan": plan.as_json(), "gate": asdict(bounds), "stages": stages}

        try:
            verified = run.obtain(verify_step(recipe, quantized.digest, engine.digest), **made)
            measured = run.obtain(
                report_step(recipe, link["digest"], quantized.digest, engine.digest, texts),
                source=source.folder,
                **made,
            )
            check_gate(read_quality_report(measured.report["measured"]), bounds)
        except GateFailed as error:
            kept = keep_rejected(folder.path, engine, manifest(), report(), error)
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
        with explained("output", folder.path):
            published = publish(folder, repository, manifest(), report(), cache)
        return BuildResult(
            published.folder, published.manifest_sha256, published.changed, run.reused, report()
        )


class _Planned(Exception):
    """Ends `resolve_source` before it downloads weights that nobody asked for."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan


@dataclass(slots=True)
class _Planner:
    """The plan of one build: made with what is known so far, shown once."""

    recipe: Recipe
    run: BuildRun
    output: Path
    room: Room
    force: bool
    shown: bool = False

    def before_weights(self, folder: Path) -> None:
        """A plan that does not fit ends a build before weights are downloaded. `folder` has config.json."""
        plan = make_plan(self.recipe, check_config(folder), self.room)
        self._show(plan)
        if not self.force:
            require_fit(plan)

    def plan(self, checkpoint: Checkpoint, cached: Collection[str] = ()) -> Plan:
        """The plan with the checkpoint's true size, shown if none was before."""
        plan = make_plan(
            self.recipe,
            checkpoint.spec,
            self.room,
            source_bytes=checkpoint.weight_bytes,
            cached=cached,
        )
        self._show(plan)
        return plan

    def cached(
        self, plan: Plan, source: str, calibration: str | None, texts: ReportTexts, bounds: GateBounds
    ) -> set[str]:
        """The stages whose results the cache has, as far as names tell: they need no room any more."""
        names, cache = set[str](), self.run.cache
        quantized = cache.peek(quantize_step(self.recipe, source, calibration).request)
        if quantized is None:
            return names
        names.add("quantize")
        engine = cache.peek(compile_step(self.recipe, plan.limits, quantized).request)
        if engine is None:
            return names
        names.add("compile")
        verified = verify_step(self.recipe, quantized, engine).request
        report = report_step(self.recipe, source, quantized, engine, texts).request
        package = package_step(self.recipe, quantized, engine, verified.key, report.key, bounds).request
        requests = (verified, report, package)
        names.update(request.stage for request in requests if cache.peek(request) is not None)
        if manifest_key(self.output, "package") == package.key:
            names.add("output")
        return names

    def _show(self, plan: Plan) -> None:
        if not self.shown:
            self.run.reporter.say(plan_text(plan), plan=plan.as_json())
            self.shown = True


def _room(cache: Path, output: Path, read_bandwidth: float | None) -> Room:
    same = _device(cache) == _device(output)
    return Room(probe_machine(read_bandwidth), free_disk(cache), None if same else free_disk(output))


def _device(path: Path) -> int:
    while True:
        try:
            return path.stat().st_dev
        except OSError:  # nothing is there yet, or nothing can be
            path = path.parent
