"""A TensorRT-LLM 1.2.1 checkpoint folder from a unified Hugging Face checkpoint, tensor by tensor."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import DoesNotFit, RecipeError, StageFailed

from enginewright_trtllm.check_checkpoint import check_checkpoint
from enginewright_trtllm.check_config import check_config
from enginewright_trtllm.config import LogitsDtype, render_config
from enginewright_trtllm.fp8_weights import check_scales
from enginewright_trtllm.layout import Entry, Source
from enginewright_trtllm.out_folder import claimed, write_config
from enginewright_trtllm.parallel import Parallel
from enginewright_trtllm.rank_files import Inputs, read_scalars, write_stage
from enginewright_trtllm.rope import trtllm_scaling
from enginewright_trtllm.safetensors_writer import entry_bytes
from enginewright_trtllm.shard import Rule
from enginewright_trtllm.tensor_file import TensorRef, open_tensors
from enginewright_trtllm.unified import Unified, check_tensors, open_unified, stages

__all__ = ["CheckpointSummary", "write_checkpoint"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class CheckpointSummary:
    """What was written."""

    folder: Path
    world_size: int
    weight_bytes: int  # of all rank files, headers not counted
    rank_bytes: int  # of the largest rank: the resident weights of one GPU


def write_checkpoint(
    unified: Path,
    out: Path,
    *,
    tp: int = 1,
    pp: int = 1,
    max_position_embeddings: int,
    rope_scaling: Mapping[str, Any] | None = None,
    logits_dtype: LogitsDtype = "float16",
    original: Path | None = None,
    progress: Progress | None = None,
) -> CheckpointSummary:
    """Write `out`/config.json and rank0..rank{tp*pp-1}.safetensors; `out` must be absent or empty.

    unified: folder as written by ModelOpt 0.47's `export_hf_checkpoint` (FP8, FP8 with FP8 KV, W4A16_AWQ), or
    a plain 16-bit one. max_position_embeddings: the promised context, positions. rope_scaling: a Hugging Face
    rope_scaling, {"rope_type": "default"} for none, None for the checkpoint's own. logits_dtype: must be the
    `logits_datatype` of the Triton model; float16 is what ModelOpt writes. original: the checkpoint that was
    quantized to FP8, in the model's dtype or float32; when given, FP8 weights are quantized from it with the
    checkpoint's scales, which are merged over q, k, v and over gate, up. progress: (bytes done, bytes in all)
    after each tensor.

    config.json is written last, so that an interrupted folder is never half accepted. Raises before the first
    byte is written: CheckpointError, RecipeError (sizes that do not divide, a context out of reach),
    UsageError (`out` in use), DoesNotFit (disk); and later StageFailed (a disk error) and CheckpointError
    (`original` is not the original); whatever stops it, `out` is empty again.

    ModelOpt's own exporter holds the model and every rank's tensors in memory (6.6 GB for one layer of
    QwQ-32B and its vocabulary, where this takes 86 MiB for any model), leaves out config keys (see
    `config.py`) and is removed in ModelOpt 0.49; tests/engines/test_trtllm_modelopt.py holds one against the
    other.
    """
    opened, parallel = open_unified(unified), Parallel(tp, pp)
    plan = stages(opened, parallel)
    config = render_config(
        opened.model,
        opened.quantization,
        parallel,
        rotary_base=opened.rope.theta,
        rotary_scaling=trtllm_scaling(opened.rope, rope_scaling, max_position_embeddings),
        max_position_embeddings=max_position_embeddings,
        logits_dtype=logits_dtype,
    )
    for problem in check_config(config):
        raise RecipeError(problem.message, code=problem.code, hint=problem.hint)
    inputs = _inputs(opened, plan, original)
    stage_bytes = [sum(entry_bytes(entry) for entry in entries) for entries in plan]
    total = sum(stage_bytes) * tp
    with claimed(out):
        _check_space(out, total)
        _write_ranks(out, plan, parallel, inputs, total, progress)
        write_config(out, config)
    problems = check_checkpoint(out)
    if problems:
        raise StageFailed(
            f"{out.name}: {len(problems)} problems in what was just written, first: {problems[0].message}",
            code=problems[0].code,
            hint=problems[0].hint,
        )
    return CheckpointSummary(out, parallel.world_size, total, max(stage_bytes))


def _write_ranks(
    out: Path,
    plan: Sequence[Sequence[Entry]],
    parallel: Parallel,
    inputs: Inputs,
    total: int,
    progress: Progress | None,
) -> None:
    done = 0

    def on_written(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    for pp_rank, entries in enumerate(plan):
        ranks = [parallel.rank(pp_rank, tp_rank) for tp_rank in range(parallel.tp)]
        write_stage(entries, [out / f"rank{rank}.safetensors" for rank in ranks], inputs, on_written)


def _inputs(opened: Unified, plan: Sequence[Sequence[Entry]], original: Path | None) -> Inputs:
    entries = [entry for stage in plan for entry in stage]
    names = {
        source.name
        for entry in entries
        if entry.rule in (Rule.MAXIMUM, Rule.MAXIMUM_OF_ONE)
        for source in entry.sources
    }
    scalars = read_scalars(opened.tensors, sorted(names))
    weights = [entry for entry in entries if entry.scales]
    originals: dict[str, TensorRef] = {}
    if original is not None and weights:
        # What ModelOpt had in its hands: the model's dtype, or float32 of a model that is served in 16 bits.
        dtypes = ("BF16" if opened.model.dtype == "bfloat16" else "F16", "F32")
        wanted = [Source(source.name, source.shape, dtypes) for entry in weights for source in entry.sources]
        held = open_tensors(original)
        check_tensors(held, wanted)
        originals = {source.name: held[source.name] for source in wanted}
    else:
        for entry in weights:
            check_scales(entry, scalars)
    return Inputs(opened.tensors, scalars, originals)


def _check_space(out: Path, total: int) -> None:
    free = shutil.disk_usage(out).free
    if total > free:
        raise DoesNotFit(
            f"{out}: {total / 1e9:.1f} GB of rank files, {free / 1e9:.1f} GB free",
            code="disk-full",
            hint="Free some space, or write to another disk.",
        )
