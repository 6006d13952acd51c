"""Reads a TensorRT-LLM checkpoint folder back: names, shapes, dtypes, scales, and every config key.

Upstream accepts a tensor of the wrong dtype with a warning, drops pre-quantization scales that its config
does not mention and leaves a missing lm_head uninitialised. Here each of these is a problem. Headers and
scalars only: a 32B checkpoint is checked in well under a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from enginewright_errors import CheckpointError

from enginewright_trtllm.check_config import Problem, check_config, model_of, parallel_of, quantization_of
from enginewright_trtllm.layout import Entry, stage_entries
from enginewright_trtllm.shard import Rule
from enginewright_trtllm.tensor_file import TensorRef, read_blocks, read_header

__all__ = ["Problem", "check_checkpoint"]


def check_checkpoint(folder: Path) -> tuple[Problem, ...]:
    """Every problem of the folder, none for a checkpoint that upstream loads as meant. Does not raise."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        if not isinstance(config, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        return (Problem("config-missing", f"{folder}: config.json: {error}", "Write the checkpoint again."),)
    problems = tuple(check_config(config))
    if problems:
        return problems  # what the tensors should be is not known

    model, quantization, parallel = model_of(config), quantization_of(config), parallel_of(config)
    found: list[Problem] = []
    for pp_rank in range(parallel.pp):
        entries = {entry.name: entry for entry in stage_entries(model, quantization, parallel, pp_rank)}
        scales: dict[str, np.float32] = {}
        for tp_rank in range(parallel.tp):
            file = folder / f"rank{parallel.rank(pp_rank, tp_rank)}.safetensors"
            try:
                tensors = read_header(file)
            except CheckpointError as error:
                found.append(Problem(error.code, error.message, error.hint))
                continue
            found += _compare(file.name, entries, tensors)
            found += _check_scales(file.name, entries, tensors, scales)
    return tuple(found)


def _compare(file: str, entries: Mapping[str, Entry], tensors: Mapping[str, TensorRef]) -> Iterator[Problem]:
    again = "Write the checkpoint again."
    for name in sorted(entries.keys() - tensors.keys()):
        yield Problem("tensor-missing", f"{file}: {name} is missing", again)
    for name in sorted(tensors.keys() - entries.keys()):
        yield Problem("tensor-unexpected", f"{file}: {name} has no place in this checkpoint", again)
    for name in sorted(tensors.keys() & entries.keys()):
        entry, ref = entries[name], tensors[name]
        if ref.dtype != entry.dtype:
            yield Problem(
                "tensor-dtype",
                f"{file}: {name} is {ref.dtype}, not {entry.dtype}",
                "Upstream would load it with no more than a warning.",
            )
        if ref.shape != entry.shape:
            yield Problem(
                "tensor-shape", f"{file}: {name} is {list(ref.shape)}, not {list(entry.shape)}", again
            )


def _check_scales(
    file: str,
    entries: Mapping[str, Entry],
    tensors: Mapping[str, TensorRef],
    scales: dict[str, np.float32],
) -> Iterator[Problem]:
    """Scalar scales are positive, KV ones at least 1, and equal on the tensor-parallel ranks of a stage."""
    for name, entry in entries.items():
        ref = tensors.get(name)
        if ref is None or entry.dtype != "F32" or (ref.dtype, ref.shape) != (entry.dtype, (1,)):
            continue
        ((_, block),) = read_blocks(ref)
        value = block.reshape(-1).view(np.float32)[0]
        least = 1.0 if entry.rule is Rule.MAXIMUM_OF_ONE else np.finfo(np.float32).tiny
        if not (np.isfinite(value) and value >= least):
            yield Problem("scale-invalid", f"{file}: {name} = {value}", "Calibrate and write it again.")
        elif scales.setdefault(name, value) != value:
            yield Problem(
                "scale-differs",
                f"{file}: {name} = {value}, {scales[name]} on another rank",
                "Write all rank files together.",
            )
