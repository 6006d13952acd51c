"""What a build will cost and whether it fits, before a weight is touched.

Only a model's dimensions are needed, so that a plan for a hub checkpoint costs no download. Prices come from
`price`; this module holds them against a machine and looks for the nearest change that fits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from enginewright_errors import DoesNotFit, RecipeError
from enginewright_model import ModelSpec

from enginewright.limits import Limits, resolve_limits
from enginewright.machine import Machine
from enginewright.price import Sizes, StageCost, price_stages, sizes_of
from enginewright.recipe import Recipe
from enginewright.units import format_bytes

__all__ = ["Plan", "Room", "Shortage", "make_plan", "require_fit"]

_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Room:
    """Where a build may go. output_disk: free bytes; None on the cache's disk, where links cost nothing."""

    machine: Machine
    cache_disk: int
    output_disk: int | None


@dataclass(frozen=True, slots=True)
class Shortage:
    """`what` needs `needed` bytes of `resource` and there are `available`."""

    what: str
    resource: str
    needed: int
    available: int

    def __str__(self) -> str:
        needed, available = format_bytes(self.needed), format_bytes(self.available)
        return f"{self.what} needs {needed} of {self.resource}, {available} are available"


@dataclass(frozen=True, slots=True)
class Plan:
    """`change` is the nearest change to the recipe that fits, "" if it fits as it is or none was found."""

    recipe: Recipe
    spec: ModelSpec
    limits: Limits
    sizes: Sizes
    stages: tuple[StageCost, ...]
    room: Room
    shortages: tuple[Shortage, ...]
    change: str = ""

    @property
    def decode_limit(self) -> float:
        """Tokens a second of one stream that reading the weights allows, with an empty context."""
        return self.room.machine.read_bandwidth / self.sizes.step_bytes

    @property
    def decode_limit_full(self) -> float:
        """The same with a full context, whose keys and values are read too."""
        kv = self.sizes.kv_bytes_per_token * self.sizes.slot_tokens
        return self.room.machine.read_bandwidth / (self.sizes.step_bytes + kv)

    def figures(self) -> dict[str, Any]:
        """What follows from recipe and model alone: the same on every machine."""
        return {
            "sizes": asdict(self.sizes),
            "kv_tokens": self.sizes.kv_tokens,
            "stages": {
                stage.name: {"host_bytes": stage.host_bytes, "disk_bytes": stage.disk_bytes}
                for stage in self.stages
            },
        }

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.recipe.name,
            "target": self.recipe.target,
            **self.figures(),
            "seconds": {stage.name: stage.seconds for stage in self.stages},
            "decode_limit": {"empty": self.decode_limit, "full": self.decode_limit_full},
            "machine": asdict(self.room.machine),
            "fits": not self.shortages,
            "shortages": [asdict(shortage) for shortage in self.shortages],
            "change": self.change,
        }


def make_plan(
    recipe: Recipe,
    spec: ModelSpec,
    room: Room,
    *,
    source_bytes: int | None = None,
    cached: Collection[str] = (),
) -> Plan:
    """Price `recipe`. Stages named in `cached`, and "output", are there already: they need no room.

    Raises RecipeError for what is wrong with the recipe on this model, whatever the machine.
    """
    plan = _price(recipe, spec, room, source_bytes, cached)
    if not plan.shortages:
        return plan
    for change, changed in _changes(recipe, plan):
        try:
            if not _price(changed, spec, room, source_bytes, cached).shortages:
                return replace(plan, change=change)
        except RecipeError:
            continue
    return plan


def require_fit(plan: Plan) -> None:
    """Raises DoesNotFit with the first shortage and the nearest change."""
    if plan.shortages:
        raise DoesNotFit(
            str(plan.shortages[0]),
            code="does-not-fit",
            hint=plan.change
            or "no change to the recipe was found that fits: free some, or use a machine with more",
        )


def _price(
    recipe: Recipe, spec: ModelSpec, room: Room, source_bytes: int | None, cached: Collection[str]
) -> Plan:
    limits = resolve_limits(recipe, spec)
    sizes = sizes_of(recipe, spec, limits, source_bytes)
    stages = price_stages(recipe, spec, sizes, room.machine)
    shortages = tuple(_shortages(recipe, sizes, stages, room, cached))
    return Plan(recipe, spec, limits, sizes, stages, room, shortages)


def _shortages(
    recipe: Recipe, sizes: Sizes, stages: tuple[StageCost, ...], room: Room, cached: Collection[str]
) -> Iterator[Shortage]:
    if sizes.sequences == 0:
        needed = sizes.kv_bytes_per_token * sizes.slot_tokens
        yield Shortage(
            f"one sequence of {sizes.slot_tokens} tokens", "engine.kv_budget", needed, recipe.engine.kv_budget
        )
    missing = [stage for stage in stages if stage.name not in cached]
    for stage in missing:
        if stage.host_bytes > room.machine.memory_available:
            yield Shortage(stage.name, "memory", stage.host_bytes, room.machine.memory_available)
    disk = sum(stage.disk_bytes for stage in missing)
    if disk > room.cache_disk:
        yield Shortage("the build", "disk for the cache", disk, room.cache_disk)
    if room.output_disk is not None and "output" not in cached and sizes.weight_bytes > room.output_disk:
        yield Shortage("the repository", "disk for the output", sizes.weight_bytes, room.output_disk)


def _changes(recipe: Recipe, plan: Plan) -> Iterator[tuple[str, Recipe]]:
    """Changes to the recipe, the gentlest first."""
    slot = plan.sizes.kv_bytes_per_token * plan.sizes.slot_tokens
    one = -(-slot // _MIB) * _MIB
    if plan.sizes.sequences == 0:
        yield f"set engine.kv_budget to {one // _MIB}MiB", _engine(recipe, kv_budget=one)
    for sequences in range(plan.sizes.sequences - 1, 0, -1):
        budget = -(-sequences * slot // _MIB) * _MIB
        yield f"set engine.kv_budget to {budget // _MIB}MiB", _engine(recipe, kv_budget=budget)
    length = plan.limits.max_seq_len // 2
    while length >= 256 and recipe.context.long is None:
        shorter = _engine(recipe, max_seq_len=length, kv_budget=min(recipe.engine.kv_budget, one))
        yield f"set engine.max_seq_len to {length} and engine.kv_budget to {one // _MIB}MiB", shorter
        length //= 2
        one = max(_MIB, -(-one // 2 // _MIB) * _MIB)
    if recipe.quantization.format != "int4_awq":
        for group in (128, 64, 32):
            smaller = recipe.quantization.model_copy(update={"format": "int4_awq", "group_size": group})
            yield (
                f"set quantization.format to int4_awq and quantization.group_size to {group}",
                recipe.model_copy(update={"quantization": smaller}),
            )


def _engine(recipe: Recipe, **fields: int) -> Recipe:
    return recipe.model_copy(update={"engine": recipe.engine.model_copy(update=fields)})
