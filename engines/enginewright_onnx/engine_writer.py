"""`write_engine`: a quantized (or plain) Hugging Face checkpoint in, an ONNX engine folder out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from enginewright_errors import DoesNotFit, UsageError
from enginewright_model import ModelSpec, read_token_ids

from enginewright_onnx.context import Region, plan_regions
from enginewright_onnx.decoder_weights import DecoderWeights, open_decoder_weights
from enginewright_onnx.engine_json import describe_engine
from enginewright_onnx.external_data import ExternalData
from enginewright_onnx.graph import build_decoder_graph
from enginewright_onnx.graph_builder import GraphBuilder
from enginewright_onnx.kv_cache import kv_bytes_per_token
from enginewright_onnx.options import EngineOptions
from enginewright_onnx.quantization_format import read_quantization_format
from enginewright_onnx.read_model import read_model
from enginewright_onnx.rope import rope_tables
from enginewright_onnx.tensors import CheckpointTensors, open_tensors

__all__ = ["EngineSummary", "write_engine"]

_FILES = ("model.onnx", "model.onnx.data", "engine.json")


@dataclass(frozen=True, slots=True)
class EngineSummary:
    """What was written.

    weight_bytes: of model.onnx.data. kv_bytes_per_token: of one token in a KV slot, over all layers.
    max_seq_len: tokens of a KV slot. quantization: int4_awq, fp8, int8_sq or none.
    """

    folder: Path
    weight_bytes: int
    kv_bytes_per_token: int
    max_seq_len: int
    quantization: str


def write_engine(
    checkpoint: Path,
    out: Path,
    options: EngineOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EngineSummary:
    """Write model.onnx, model.onnx.data and, last, engine.json into the new or empty folder `out`.

    Weights stream in slices of rows, so memory stays at some 50 MiB beside the rope tables whatever the size
    of the model; the same inputs give the same bytes. `progress` gets the bytes of weights read so far and
    their total. Raises CheckpointError for a checkpoint that is damaged or that the graph cannot express,
    RecipeError for an option that does not suit it, DoesNotFit for a KV budget below one slot, OSError when a
    file cannot be written. After an error none of the files is left.
    """
    options = options or EngineOptions()
    spec = read_model(checkpoint)
    regions = plan_regions(spec, options)
    slot_len = max(region.max_seq_len for region in regions)
    _check_kv_budget(spec, options, slot_len)
    tensors = open_tensors(checkpoint)
    weights = open_decoder_weights(tensors, spec)
    quantization = read_quantization_format(checkpoint, weights)
    description = describe_engine(
        spec, read_token_ids(checkpoint), options, quantization, regions, weights.lm_head
    )

    if out.exists() and any(out.iterdir()):
        raise UsageError(
            f"{out} is not empty", code="output-not-empty", hint="give a new folder for the engine"
        )
    out.mkdir(parents=True, exist_ok=True)
    report = progress if progress is not None else _ignore
    total = _watch(tensors, weights, report)
    try:
        weight_bytes = _write_graph(out, spec, weights, regions, options)
        text = json.dumps(description, indent=2, sort_keys=True, allow_nan=False) + "\n"
        (out / "engine.json").write_text(text, encoding="utf-8")
        report(total, total)
    except BaseException:
        for name in _FILES:
            (out / name).unlink(missing_ok=True)
        raise
    return EngineSummary(out, weight_bytes, kv_bytes_per_token(spec), slot_len, quantization.name)


def _write_graph(
    out: Path, spec: ModelSpec, weights: DecoderWeights, regions: tuple[Region, ...], options: EngineOptions
) -> int:
    tables = rope_tables([(region.rope, region.max_seq_len) for region in regions], spec.head_dim)
    with ExternalData(out / "model.onnx.data") as data:
        model = build_decoder_graph(GraphBuilder(data), spec, weights, tables, options)
    (out / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    return data.nbytes


def _check_kv_budget(spec: ModelSpec, options: EngineOptions, slot_len: int) -> None:
    slot_bytes = slot_len * kv_bytes_per_token(spec)
    if slot_bytes > options.kv_budget_bytes:
        fitting = options.kv_budget_bytes // kv_bytes_per_token(spec)
        raise DoesNotFit(
            f"a slot of {slot_len} tokens needs {slot_bytes} bytes, kv_budget is {options.kv_budget_bytes}",
            code="kv-budget-below-one-slot",
            hint=f"raise kv_budget to {slot_bytes}, or lower max_seq_len to {fitting}",
        )


def _ignore(done: int, total: int) -> None:
    """Progress that nobody watches."""


def _watch(tensors: CheckpointTensors, weights: DecoderWeights, progress: Callable[[int, int], None]) -> int:
    """Report what `tensors` reads to `progress`; returns the total, the bytes of all linear weights."""
    linears = [linear for layer in weights.layers for linear in layer.linears]
    total = sum(linear.nbytes for linear in (weights.embedding, weights.lm_head, *linears))
    done = 0

    def on_read(nbytes: int) -> None:
        nonlocal done
        # Scales are read beside the weights that are counted: never beyond the total.
        done = min(done + nbytes, total)
        progress(done, total)

    tensors.on_read = on_read
    return total
