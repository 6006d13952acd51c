"""One model measured: how many layers fit, a random checkpoint of them, every stage as it ends."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from enginewright.units import format_seconds
from enginewright_errors import DoesNotFit
from enginewright_model import read_model_spec
from enginewright_trtllm.figures import gigabytes
from enginewright_trtllm.gpus import find_gpu, lookup_gpu
from enginewright_trtllm.target import Format
from gpu.random_checkpoint import SHAPES, write_random_checkpoint
from gpu.room import find_room, layer_bounds
from gpu.run_report import TABLE_HEAD, describe_machine, table_row, write_results
from gpu.stage_runs import StageRun, load_modelopt, run_stages

__all__ = ["measure_model"]

# Whose plan stands beside a device that the plan's table does not know.
_REFERENCE_GPU = "H100-80"


def measure_model(
    shape_name: str,
    *,
    layers: int | None,
    formats: Sequence[Format],
    device: str,
    work: Path,
    results: Path,
) -> Path:
    """Print a table and write `results`/DATE-DEVICE.json; returns the file.

    shape_name: of `SHAPES`. layers: None takes as many as fit. work: an empty folder for the checkpoints.
    Raises DoesNotFit where not even one layer fits, and what the stages raise.
    """
    kernels = load_modelopt(device)
    shape, machine = SHAPES[shape_name], describe_machine(device)
    gpu = lookup_gpu(machine["device"]) or find_gpu(_REFERENCE_GPU)
    dims, calibration = read_model_spec(shape.config), shape.calibration
    tokens = calibration.samples * calibration.length
    room = find_room(work, device)
    bounds = layer_bounds(room, formats, dims, gpu, tokens)
    print(f"{machine['device']}, beside the plan for {gpu.name}; layers that fit: {_listed(bounds)}")
    layers = min(bounds.values()) if layers is None else layers
    if layers == 0:
        raise DoesNotFit(
            f"not one layer fits: {_listed(bounds)}",
            code="layer-does-not-fit",
            hint="give --work on a larger disk, or a machine with more memory",
        )
    source = work / "source"
    size = write_random_checkpoint(source, shape.with_layers(layers), device)
    print(
        f"{shape_name} with {layers} of {dims.num_layers} layers: {gigabytes(size)} in BF16\n\n{TABLE_HEAD}"
    )
    facts = {
        "machine": machine,
        "planned_for": gpu.name,
        "model": {"shape": shape_name, "layers": layers, "layers_that_fit": bounds, "source_bytes": size},
        "calibration_tokens": tokens,
        "modelopt_kernels": kernels,
    }
    file = results / f"{date.today().isoformat()}-{re.sub(r'[^A-Za-z0-9]+', '-', machine['device'])}.json"
    runs: list[StageRun] = []
    for run in run_stages(source, work, formats, calibration, device, gpu):
        runs.append(run)
        print(table_row(run), flush=True)
        write_results(file, facts, runs)
    print(f"\n{format_seconds(sum(run.measured.seconds for run in runs))} in all, in {file}")
    return file


def _listed(bounds: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {layers}" for what, layers in bounds.items())
