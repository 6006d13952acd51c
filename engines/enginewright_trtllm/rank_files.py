"""The rank files of one pipeline stage, written together: every source tensor is read once, block by block.

Memory is a few blocks of BLOCK_BYTES whatever the model: a rank's file is a sequence of row runs and column
runs of the sources, in order, so nothing ever has to be held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from enginewright_errors import CheckpointError
from numpy.typing import NDArray

from enginewright_trtllm.elements import converter, ones
from enginewright_trtllm.fp8_weights import quantized_blocks
from enginewright_trtllm.layout import Entry, Source
from enginewright_trtllm.safetensors_writer import SafetensorsWriter, entry_bytes, in_file_order
from enginewright_trtllm.shard import Rule, cut
from enginewright_trtllm.tensor_file import TensorRef, read_blocks

__all__ = ["Inputs", "read_scalars", "write_stage"]

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where the bytes of a checkpoint come from."""

    tensors: Mapping[str, TensorRef]  # of the unified checkpoint
    scalars: Mapping[str, np.float32]  # values of its [] tensors
    originals: Mapping[str, TensorRef]  # weights to quantize to FP8; empty: copy the unified ones


def read_scalars(tensors: Mapping[str, TensorRef], names: Iterable[str]) -> dict[str, np.float32]:
    """The values of scalar scales. Raises CheckpointError for one that is not positive and finite."""
    values = {}
    for name in names:
        ((_, block),) = read_blocks(tensors[name])
        value = block.reshape(-1).view(np.float32)[0]
        if not (np.isfinite(value) and value > 0):
            raise CheckpointError(
                f"tensor {name} = {value} is not a positive number",
                code="scale-invalid",
                hint="Calibrate again: a scale of zero or NaN means that a layer saw no data.",
            )
        values[name] = value
    return values


def write_stage(
    entries: Sequence[Entry], files: Sequence[Path], inputs: Inputs, on_written: Callable[[int], None]
) -> None:
    """Write one stage's entries to its tensor-parallel rank files; `on_written` gets bytes as they are
    done."""
    ordered = in_file_order(entries)
    with ExitStack() as stack:
        writers = [stack.enter_context(SafetensorsWriter(file, ordered)) for file in files]
        for entry in ordered:
            _write_entry(entry, writers, inputs)
            for writer in writers:
                writer.finish_entry()
            on_written(entry_bytes(entry) * len(files))


def _write_entry(entry: Entry, writers: Sequence[SafetensorsWriter], inputs: Inputs) -> None:
    present = [source for source in entry.sources if source.name in inputs.tensors]
    if entry.rule in (Rule.MAXIMUM, Rule.MAXIMUM_OF_ONE):
        _write_all(writers, _maximum(entry, inputs.scalars))
    elif not present:
        _write_all(writers, ones(entry.shape[0], entry.dtype))
    elif entry.rule is Rule.SHARED:
        _write_all(writers, _agreed(entry, inputs))
    else:
        for source in entry.sources:
            _write_source(entry, source, writers, inputs)


def _write_source(entry: Entry, source: Source, writers: Sequence[SafetensorsWriter], inputs: Inputs) -> None:
    tp = len(writers)
    rows_each = entry.rows_each(source, tp)
    for first, block in _blocks(entry, source, inputs):
        for tp_rank, writer in enumerate(writers):
            writer.write(cut(block, first, rule=entry.rule, rows_each=rows_each, tp=tp, tp_rank=tp_rank))
    if entry.rule is Rule.ROWS and rows_each * tp > source.shape[0]:
        for writer in writers:
            writer.write_zeros_to_end()


def _blocks(entry: Entry, source: Source, inputs: Inputs) -> Iterator[tuple[int, Bytes]]:
    ref = inputs.tensors[source.name]
    original = inputs.originals.get(source.name) if entry.scales else None
    if original is not None:
        own_scale = inputs.scalars[source.name.removesuffix("weight") + "weight_scale"]
        scale = max(inputs.scalars[name] for name in entry.scales)
        yield from quantized_blocks(original, ref, own_scale=own_scale, scale=scale)
        return
    convert = converter(ref.dtype, entry.dtype)
    for first, block in read_blocks(ref):
        yield first, convert(block)


def _maximum(entry: Entry, scalars: Mapping[str, np.float32]) -> bytes:
    largest = max(scalars[source.name] for source in entry.sources)
    if entry.rule is Rule.MAXIMUM_OF_ONE:
        largest = max(largest, np.float32(1.0))
    return largest.tobytes()


def _agreed(entry: Entry, inputs: Inputs) -> bytes:
    """The vector that all sources hold, absent ones counting as ones. Raises CheckpointError when they
    differ."""
    vectors = {
        b"".join(block.tobytes() for _, block in _blocks(entry, source, inputs))
        if source.name in inputs.tensors
        else ones(entry.shape[0], entry.dtype)
        for source in entry.sources
    }
    if len(vectors) > 1:
        raise CheckpointError(
            f"{entry.name}: {', '.join(source.name for source in entry.sources)} differ",
            code="prequant-scales-differ",
            hint="Export with ModelOpt's export_hf_checkpoint: it gives projections of one input one scale.",
        )
    return vectors.pop()


def _write_all(writers: Sequence[SafetensorsWriter], data: bytes) -> None:
    for writer in writers:
        writer.write(data)
