"""How many of the model's layers can be measured on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from enginewright.load_model import FLOAT32_PARAMETERS
from enginewright.machine import available_memory
from enginewright_model import ModelSpec
from enginewright_trtllm.gpus import Gpu
from enginewright_trtllm.stage_costs import StageCost, stage_costs
from enginewright_trtllm.target import Format, TrtllmTarget
from enginewright_trtllm.weights import checkpoint_bytes, source_bytes

__all__ = ["Room", "find_room", "layer_bounds", "planned_costs"]

# Activations, the search's copies of a weight, and what the allocator cannot use.
_OF_DEVICE = 0.85
_OF_REST = 0.9


@dataclass(frozen=True, slots=True)
class Room:
    """Free bytes. device: None where the CPU calibrates."""

    host: int
    disk: int
    device: int | None


def find_room(work: Path, device: str) -> Room:
    """Of this machine now, with files in the folder `work`."""
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else None
    return Room(available_memory(), shutil.disk_usage(work).free, free)


def planned_costs(
    model_format: Format, tp: int, dims: ModelSpec, gpu: Gpu, tokens: int
) -> Mapping[str, StageCost]:
    """The plan's figures by stage; `tokens` are calibrated with."""
    target = TrtllmTarget(model_format, gpu.name, gpu_count=tp, tp=tp, calibration_tokens=tokens)
    return {cost.stage: cost for cost in stage_costs(target, dims, gpu)}


def layer_bounds(
    room: Room, formats: Sequence[Format], dims: ModelSpec, gpu: Gpu, tokens: int
) -> dict[str, int]:
    """The most layers, up to those of `dims`, that the host, the disk and the device have room for."""

    def host(layers: int) -> int:
        cut = replace(dims, num_layers=layers)
        costs = [planned_costs(one, 1, cut, gpu, tokens)["quantize"] for one in formats]
        return max(_resident(cut), *(cost.host_bytes for cost in costs))

    def disk(layers: int) -> int:
        # The source stays; a quantized checkpoint and one set of rank files come and go.
        cut = replace(dims, num_layers=layers)
        return source_bytes(cut) + 2 * max(
            checkpoint_bytes(cut, TrtllmTarget(one, gpu.name)) for one in formats
        )

    bounds = {
        "host": _most(host, _OF_REST * room.host, dims.num_layers),
        "disk": _most(disk, _OF_REST * room.disk, dims.num_layers),
    }
    if room.device is not None:
        bounds["device"] = _most(
            lambda layers: _resident(replace(dims, num_layers=layers)),
            _OF_DEVICE * room.device,
            dims.num_layers,
        )
    return bounds


def _resident(dims: ModelSpec) -> int:
    """Bytes of the weights while they are calibrated: small models are widened to float32."""
    size = source_bytes(dims)
    return 2 * size if size // 2 <= FLOAT32_PARAMETERS else size


def _most(need: Callable[[int], int], have: float, limit: int) -> int:
    return max((layers for layers in range(1, limit + 1) if need(layers) <= have), default=0)
