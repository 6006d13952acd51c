"""plan -> quantize -> report -> checkpoint -> verify -> compile -> package, for TensorRT-LLM.

Recipe, cards and the builder that is here are judged before anything is downloaded. Where nothing can build
engines, the build ends after `verify` with a folder that goes on elsewhere (`handoff`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import GateFailed, UsageError
from enginewright_trtllm.find_builder import find_builder
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.weights import source_bytes

from enginewright.build_run import BuildResult, BuildRun
from enginewright.cache import Cache, Entry, default_cache_folder
from enginewright.calibration import load_calibration
from enginewright.checkpoint import open_checkpoint
from enginewright.engine_steps import engine_steps
from enginewright.failures import explained
from enginewright.handoff import MODEL_FOLDER, Handoff
from enginewright.machine import available_memory, free_disk
from enginewright.manifest import first_links, make_manifest, manifest_key
from enginewright.next_steps import next_steps
from enginewright.output import OutputFolder
from enginewright.progress import Reporter
from enginewright.publish import keep_rejected, publish
from enginewright.quality.figures import read_quality_report
from enginewright.quality.gate import GateBounds, check_gate, gate_bounds
from enginewright.quality.texts import load_report_texts
from enginewright.source import resolve_source
from enginewright.steps import Step, modelopt_step, report_step
from enginewright.take_handoff import check_same_checkpoint, taken_checkpoint_step
from enginewright.trtllm_plan import (
    Here,
    TrtllmPlan,
    known_config,
    make_trtllm_plan,
    read_config,
    require_room,
    require_sound,
)
from enginewright.trtllm_plan_text import trtllm_plan_text
from enginewright.trtllm_recipe import TrtllmRecipe, modelopt_recipe, trtllm_target
from enginewright.trtllm_steps import (
    checkpoint_step,
    compile_stage,
    handoff_step,
    package_step,
    verify_step,
)

__all__ = ["build_trtllm", "plan_trtllm"]


def plan_trtllm(
    recipe: TrtllmRecipe, *, cache_folder: Path | None = None, handoff: Handoff | None = None
) -> TrtllmPlan:
    """Price and check `recipe` without building. Of a hub checkpoint only small files are downloaded."""
    config = _config_at_hand(recipe, handoff)
    if config is not None:
        return make_trtllm_plan(recipe, config)

    def stop(folder: Path) -> None:
        raise _Planned(make_trtllm_plan(recipe, read_config(folder)))

    try:
        source = resolve_source(
            recipe.checkpoint, cache_folder or default_cache_folder(), before_weights=stop
        )
    except _Planned as planned:
        return planned.plan
    return make_trtllm_plan(recipe, read_config(source.folder))


def build_trtllm(
    recipe: TrtllmRecipe,
    output: Path,
    *,
    reporter: Reporter,
    cache_folder: Path | None = None,
    container: bool = False,
    force: bool = False,
    handoff: Handoff | None = None,
) -> BuildResult:
    """Build `recipe` into the folder `output`; what the cache holds is verified and reused.

    container: engines are built by docker. force: build even if the plan does not fit. handoff: go on from a
    build that ended after its checkpoints. Raises RecipeError, CheckpointError, DoesNotFit, StageFailed,
    GateFailed, and UsageError for a builder or a GPU that is not the recipe's.
    """
    target = trtllm_target(recipe)
    planner = _Planner(recipe, reporter, force)
    config = _config_at_hand(recipe, handoff)
    if config is not None:
        planner.plan(config)
    found = find_builder(target, container=container)
    builder, reason = (None, found) if isinstance(found, str) else (found, "")
    cache_folder = cache_folder or default_cache_folder()
    with OutputFolder(output) as folder, Cache(cache_folder, warn=reporter.warn) as cache:
        run = BuildRun(cache, reporter)
        reporter.name_width = max(len(compile_stage(variant)) for variant in target.variants)
        room = _Room(Here(available_memory(), free_disk(cache.root)), builder is not None, force)
        if handoff is None:
            plan, beginning = _write_checkpoints(run, planner, room, target, folder.path)
        else:
            plan, beginning = _take_checkpoints(run, planner, room, handoff)
        checkpoint = run.entries["checkpoint"]
        measured = None
        if "report" in run.entries or "report" in beginning:
            measured = run.entries["report"].request.key if handoff is None else beginning["report"]["key"]
        verified = run.obtain(verify_step(target, checkpoint.digest), checkpoint=checkpoint.folder)
        steps = engine_steps(
            target,
            checkpoint,
            builder,
            script_folder=folder.path if handoff is None else handoff.folder,
            cache=cache,
            warn=reporter.warn,
        )
        if steps is None:
            _check_handoff(folder.path, handoff, reason)
            step = handoff_step(target, checkpoint.digest, verified.request.key, measured)
            last = run.obtain(step, checkpoint=checkpoint.folder)
        else:
            last = _package(run, plan, steps, checkpoint, verified, measured)
        manifest = make_manifest(recipe, plan.figures(), beginning, run.entries)
        report = _report(run, plan)
        with explained("output", folder.path):
            published = publish(folder, last, manifest, report, cache)
    return BuildResult(
        published.folder,
        published.manifest_sha256,
        published.changed,
        run.reused,
        report,
        "" if steps is not None else next_steps(published.folder, target, reason),
    )


class _Planned(Exception):
    """Ends `resolve_source` before it downloads weights that nobody asked for."""

    def __init__(self, plan: TrtllmPlan) -> None:
        self.plan = plan


@dataclass(slots=True)
class _Planner:
    """The plan of one build: made and judged as soon as there is a config.json, shown once."""

    recipe: TrtllmRecipe
    reporter: Reporter
    force: bool
    made: TrtllmPlan | None = None

    def plan(self, config: Mapping[str, Any]) -> TrtllmPlan:
        """Raises DoesNotFit or RecipeError for what is wrong on any machine, after all of it was shown."""
        if self.made is None:
            made = make_trtllm_plan(self.recipe, config)
            self.reporter.say(trtllm_plan_text(made), plan=made.as_json())
            require_sound(made, force=self.force)
            self.made = made
        return self.made


@dataclass(frozen=True, slots=True)
class _Room:
    """What this machine has for the stages that run on it."""

    here: Here
    compiled_here: bool
    force: bool

    def require(self, plan: TrtllmPlan, cached: Collection[str] = ()) -> None:
        if not self.force:
            require_room(plan, self.here, compiled_here=self.compiled_here, cached=cached)


def _config_at_hand(recipe: TrtllmRecipe, handoff: Handoff | None) -> Mapping[str, Any] | None:
    return (
        known_config(recipe.checkpoint.source)
        if handoff is None
        else read_config(handoff.checkpoint / MODEL_FOLDER)
    )


def _write_checkpoints(
    run: BuildRun, planner: _Planner, room: _Room, target: TrtllmTarget, output: Path
) -> tuple[TrtllmPlan, dict[str, Any]]:
    """fetch, quantize, report, checkpoint. Returns the plan and the links before the stages."""
    recipe, cache = planner.recipe, run.cache

    def before_weights(folder: Path) -> None:
        plan = planner.plan(read_config(folder))
        if not any(folder.glob("*.safetensors")):
            room.require(plan)

    source = run.fetch(recipe.checkpoint, before_weights)
    original = open_checkpoint(source.folder)
    plan = planner.plan(original.config)
    link = run.hash_source(source, original)
    if target.format == "bf16":
        step = checkpoint_step(target, plan.dims, link["digest"], None)
        room.require(plan, () if cache.peek(step.request) is None else ("checkpoint",))
        run.obtain(step, original=source.folder)
        return plan, first_links(link, None)

    calibration = load_calibration(recipe.quantization.calibration, source.folder).sha256
    quantize = modelopt_step(
        modelopt_recipe(recipe),
        link["digest"],
        calibration,
        fp8_kv=target.fp8_kv,
        use_gpu=True,
        merged=target.format == "fp8",
    )
    texts = load_report_texts(recipe.report, source.folder, target.variants[0].max_seq_len)
    cached = []
    known = cache.peek(quantize.request)
    if known is not None:
        cached.append("quantize")
        if cache.peek(report_step(recipe, link["digest"], known, None, texts).request) is not None:
            cached.append("report")
        if cache.peek(checkpoint_step(target, plan.dims, link["digest"], known).request) is not None:
            cached.append("checkpoint")
    room.require(plan, cached)
    quantized = run.obtain(quantize, source=source.folder)
    measured = run.obtain(
        report_step(recipe, link["digest"], quantized.digest, None, texts),
        source=source.folder,
        checkpoint=quantized.folder,
    )
    try:
        check_gate(read_quality_report(measured.report["measured"]), _bounds(plan))
    except GateFailed as error:
        manifest = make_manifest(recipe, plan.figures(), first_links(link, calibration), run.entries)
        kept = keep_rejected(output, quantized, manifest, _report(run, plan), error)
        error.hint = f"{error.hint}; the rejected checkpoint is in {kept}"
        raise
    run.obtain(
        checkpoint_step(target, plan.dims, link["digest"], quantized.digest),
        quantized=quantized.folder,
        original=source.folder,
    )
    return plan, first_links(link, calibration)


def _take_checkpoints(
    run: BuildRun, planner: _Planner, room: _Room, handoff: Handoff
) -> tuple[TrtllmPlan, dict[str, Any]]:
    """The checkpoints of a build that was handed off. Returns the plan and the links before them."""
    check_same_checkpoint(handoff, planner.recipe)
    plan = planner.plan(read_config(handoff.checkpoint / MODEL_FOLDER))
    room.require(plan, ("quantize", "report", "checkpoint"))
    run.obtain(taken_checkpoint_step(handoff, run.cache.hasher))
    return plan, handoff.beginning


def _package(
    run: BuildRun,
    plan: TrtllmPlan,
    steps: Mapping[str, Step],
    checkpoint: Entry,
    verified: Entry,
    measured: str | None,
) -> Entry:
    engines = {variant: run.obtain(step, checkpoint=checkpoint.folder) for variant, step in steps.items()}
    step = package_step(
        plan.recipe,
        plan.target,
        plan.dims,
        checkpoint.digest,
        {variant: entry.digest for variant, entry in engines.items()},
        verified.request.key,
        measured,
    )
    folders = {entry.request.stage: entry.folder for entry in engines.values()}
    return run.obtain(step, checkpoint=checkpoint.folder, **folders)


def _check_handoff(output: Path, handoff: Handoff | None, reason: str) -> None:
    """Raises UsageError where a folder of checkpoints is of no use, or would replace what serves."""
    if handoff is not None:
        raise UsageError(
            f"the engines of {handoff.folder} cannot be built here: {reason}",
            code="no-builder",
            hint="run it where the GPU is: with --container, or inside NVIDIA's container",
        )
    if manifest_key(output, "package") is not None:
        raise UsageError(
            f"{output} holds a finished repository, and no engine can be built here: {reason}",
            code="no-builder",
            hint="give another --output for the checkpoints, which are then taken to a GPU",
        )


def _bounds(plan: TrtllmPlan) -> GateBounds:
    parameters = source_bytes(plan.dims) // 2
    return gate_bounds(plan.recipe.gate, plan.recipe.quantization.format, parameters)


def _report(run: BuildRun, plan: TrtllmPlan) -> dict[str, Any]:
    stages = run.stage_reports(_planned(plan))
    return {"plan": plan.as_json(), "gate": asdict(_bounds(plan)), "stages": stages}


def _planned(plan: TrtllmPlan) -> dict[str, Any]:
    """The costs by the names that the stages have here."""
    return {
        cost.stage if cost.variant is None else f"compile-{cost.variant}": asdict(cost)
        for cost in plan.gpus.stages
    }
