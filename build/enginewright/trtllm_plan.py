"""What a TensorRT-LLM build will cost, what is wrong with it, and whether it fits.

Cards are judged by the recipe alone. The machine that builds is judged by the stages that run on it: for one
who only wants to know, none of them; for a build, quantization and rank files, and the engines if they are
compiled here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import DoesNotFit
from enginewright_model import ModelSpec, read_json_object, read_model_spec
from enginewright_trtllm.figures import gigabytes
from enginewright_trtllm.finding import Finding, errors_of, require_no_errors
from enginewright_trtllm.gpu_plan import GpuPlan, plan_gpus, require_fit
from enginewright_trtllm.gpus import find_gpu
from enginewright_trtllm.plan_table import plan_table
from enginewright_trtllm.preflight import preflight
from enginewright_trtllm.stage_costs import StageCost
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.weights import source_bytes

from enginewright.checkpoint import check_config
from enginewright.trtllm_recipe import TrtllmRecipe, trtllm_target

__all__ = [
    "Here",
    "TrtllmPlan",
    "known_config",
    "make_trtllm_plan",
    "read_config",
    "require_room",
    "require_sound",
]

_KNOWN = Path(__file__).with_name("data") / "known_configs.json"


@dataclass(frozen=True, slots=True)
class Here:
    """Memory and disk, in bytes, that are free on the machine that builds."""

    memory: int
    disk: int


@dataclass(frozen=True, slots=True)
class TrtllmPlan:
    """findings: of the preflight, errors first. `gpus.shortfalls` are the cards' affair."""

    recipe: TrtllmRecipe
    target: TrtllmTarget
    dims: ModelSpec
    gpus: GpuPlan
    findings: tuple[Finding, ...]

    def figures(self) -> dict[str, Any]:
        """What follows from recipe and model alone: the same on every machine."""
        native = self.target.variants[0].name
        return {
            "rows": dict(plan_table(self.gpus)),
            "sizes": {
                "source_bytes": source_bytes(self.dims),
                "weight_bytes": self.gpus.weights[native],
                "step_bytes": self.gpus.read_bytes,
                "kv_bytes_per_token": self.gpus.kv_bytes_per_token,
                "sequences": self.target.max_batch_size,
            },
            # Of the cards that decode a step together.
            "read_bandwidth": find_gpu(self.target.gpu).bandwidth * self.target.tp,
            "weight_bytes": dict(self.gpus.weights),
            "kv_tokens": {item.variant.name: item.kv_tokens for item in self.gpus.memory.variants},
            "stages": {_stage_name(cost): asdict(cost) for cost in self.gpus.stages},
        }

    def as_json(self) -> dict[str, Any]:
        return {
            **self.figures(),
            "ok": not errors_of(self.findings),
            "fits": self.gpus.fits,
            "changes": [change.description for change in self.gpus.changes],
            "findings": [asdict(finding) for finding in self.findings],
        }


def make_trtllm_plan(recipe: TrtllmRecipe, config: Mapping[str, Any]) -> TrtllmPlan:
    """Price and check `recipe` on a model with this config.json.

    Raises RecipeError for a card that is not in the table and CheckpointError for a model that has no
    TensorRT-LLM checkpoint here; everything else that is wrong is in the plan.
    """
    target, dims = trtllm_target(recipe), read_model_spec(config)
    find_gpu(target.gpu)
    return TrtllmPlan(recipe, target, dims, plan_gpus(target, dims), preflight(target, dims))


def require_sound(plan: TrtllmPlan, *, force: bool = False) -> None:
    """Raises DoesNotFit with the nearest changes, then RecipeError with the first finding that is an error.

    force: let pass what does not fit, and nothing else.
    """
    if not force:
        require_fit(plan.gpus)
    missing = {shortfall.code for shortfall in plan.gpus.shortfalls}
    require_no_errors(finding for finding in plan.findings if finding.code not in missing)


def require_room(plan: TrtllmPlan, here: Here, *, compiled_here: bool, cached: Collection[str]) -> None:
    """Raises DoesNotFit for a stage that this machine has no room for. cached: names of what is done."""
    costs = [
        cost
        for cost in plan.gpus.stages
        if _stage_name(cost) not in cached and (compiled_here or cost.stage != "build")
    ]
    for cost in costs:
        if cost.host_bytes > here.memory:
            raise DoesNotFit(
                f"{_stage_name(cost)} needs {gigabytes(cost.host_bytes)} of memory, "
                f"{gigabytes(here.memory)} are available",
                code="host-memory",
                hint=_hint(cost),
            )
    disk = sum(cost.disk_bytes for cost in costs)
    if disk > here.disk:
        raise DoesNotFit(
            f"the stages write {gigabytes(disk)}, {gigabytes(here.disk)} are free",
            code="disk",
            hint="free some, or set ENGINEWRIGHT_CACHE to a folder on a larger disk",
        )


def _hint(cost: StageCost) -> str:
    more = "build on a machine with more memory, or give --force where swap is enough"
    return (
        f"compile one rank after another with trtllm.workers: 1; or {more}" if cost.stage == "build" else more
    )


def _stage_name(cost: StageCost) -> str:
    """ "quantize", "report", "checkpoint" or "build native"."""
    return cost.stage if cost.variant is None else f"{cost.stage} {cost.variant}"


def known_config(source: str) -> Mapping[str, Any] | None:
    """config.json of a checkpoint folder, or of a model that is known by its name on the hub; else None.

    QwQ-32B is known, so that its recipes are planned and checked without its weights or a network; a folder
    says for itself. Raises CheckpointError for a config that is not supported.
    """
    if Path(source).is_dir():
        return read_config(Path(source))
    known: dict[str, Any] = json.loads(_KNOWN.read_text(encoding="utf-8"))
    return known.get(source)


def read_config(folder: Path) -> Mapping[str, Any]:
    """The config.json in `folder`, of a model that is supported."""
    check_config(folder)
    return read_json_object(folder / "config.json")
