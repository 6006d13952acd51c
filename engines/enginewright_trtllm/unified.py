"""The unified Hugging Face checkpoint (ModelOpt's `export_hf_checkpoint`), opened and checked against the
layout."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from enginewright_errors import CheckpointError
from enginewright_model import Dtype, ModelSpec, read_json_object, read_model_spec

from enginewright_trtllm.layout import Entry, Source, stage_entries
from enginewright_trtllm.parallel import Parallel, check_parallel
from enginewright_trtllm.quantization import Quantization
from enginewright_trtllm.rope import Rope, rope_from_spec
from enginewright_trtllm.tensor_file import TensorRef, open_tensors

__all__ = ["Unified", "check_tensors", "open_unified", "stages"]


@dataclass(frozen=True, slots=True)
class Unified:
    """An opened checkpoint: nothing of its tensors is in memory yet. model.dtype: what it is served in."""

    folder: Path
    model: ModelSpec
    quantization: Quantization
    rope: Rope
    tensors: Mapping[str, TensorRef]

    @property
    def tied(self) -> bool:
        """The embedding is the lm_head as well: there is no tensor of the latter's own."""
        return "lm_head.weight" not in self.tensors


def open_unified(folder: Path) -> Unified:
    """Open a quantized (or plain, `hf_quant_config.json` absent) checkpoint. Raises CheckpointError."""
    config = read_json_object(folder / "config.json")
    tensors = open_tensors(folder)
    spec = read_model_spec(config)
    tied = spec.tie_word_embeddings
    if not tied and "lm_head.weight" not in tensors:
        raise CheckpointError(
            "lm_head.weight is missing and config.json does not tie it to the embedding",
            code="tensor-missing",
            hint="Fetch the checkpoint again; TensorRT-LLM would load it uninitialised without a word.",
        )
    if tied:
        tensors.pop("lm_head.weight", None)
    return Unified(
        folder=folder,
        model=replace(spec, dtype=_served_dtype(spec)),
        quantization=_quantization(folder, config, tensors),
        rope=rope_from_spec(spec),
        tensors=tensors,
    )


def stages(unified: Unified, parallel: Parallel) -> list[list[Entry]]:
    """The entries of each pipeline stage. Raises RecipeError when `parallel` does not divide the model, and
    CheckpointError when a tensor is missing, left over, or of another shape or dtype than the layout's."""
    check_parallel(unified.model, unified.quantization, parallel)
    every = [
        list(stage_entries(unified.model, unified.quantization, parallel, pp_rank, tied=unified.tied))
        for pp_rank in range(parallel.pp)
    ]
    sources = {source.name: source for entries in every for entry in entries for source in entry.sources}
    check_tensors(unified.tensors, sources.values())
    unknown = sorted(
        name for name in unified.tensors if name not in sources and not name.endswith("rotary_emb.inv_freq")
    )
    if unknown:
        raise CheckpointError(
            f"{len(unknown)} tensors have no place in a TensorRT-LLM checkpoint, first {unknown[0]}",
            code="tensor-unexpected",
            hint="Only Qwen2 and Llama models whose decoder linears are all quantized alike, and only they.",
        )
    return every


def check_tensors(tensors: Mapping[str, TensorRef], sources: Iterable[Source]) -> None:
    """Raise CheckpointError when a source is missing or has another shape or dtype."""
    for source in sources:
        ref = tensors.get(source.name)
        if ref is None:
            if source.optional:
                continue
            raise CheckpointError(
                f"tensor {source.name} is missing",
                code="tensor-missing",
                hint="Export the checkpoint again; every decoder linear must be quantized alike.",
            )
        shape = () if ref.shape == (1,) and source.shape == () else ref.shape
        if shape != source.shape or ref.dtype not in source.dtypes:
            raise CheckpointError(
                f"tensor {source.name} is {ref.dtype} {list(ref.shape)},"
                f" not {' or '.join(source.dtypes)} {list(source.shape)}",
                code="tensor-mismatch",
                hint="config.json and tensors must come from one export.",
            )


def _served_dtype(spec: ModelSpec) -> Dtype:
    """TensorRT-LLM's checkpoint has to name one; weights stored as float32 are served as bfloat16."""
    if spec.dtype is None:
        raise CheckpointError(
            "config.json: dtype is missing",
            code="dtype-unsupported",
            hint="Set `dtype` (or `torch_dtype`) to the type that the weights were trained in.",
        )
    return "float16" if spec.dtype == "float16" else "bfloat16"


def _quantization(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorRef]) -> Quantization:
    file = folder / "hf_quant_config.json"
    if not file.is_file():
        if "quantization_config" in config:
            raise CheckpointError(
                f"{folder.name}: config.json speaks of quantization, but there is no hf_quant_config.json",
                code="quantization-unsupported",
                hint="Use a checkpoint written by ModelOpt's export_hf_checkpoint.",
            )
        return Quantization("none")
    block = read_json_object(file).get("quantization")
    if not isinstance(block, dict):
        raise CheckpointError(
            f"hf_quant_config.json: quantization = {reprlib.repr(block)} is not an object",
            code="quantization-unsupported",
            hint="Use a checkpoint written by ModelOpt's export_hf_checkpoint.",
        )
    algorithm, kv = block.get("quant_algo"), block.get("kv_cache_quant_algo")
    excluded = block.get("exclude_modules")
    known = ("lm_head", "model.embed_tokens")
    if (
        not isinstance(excluded, list)
        or "lm_head" not in excluded
        or any(one not in known for one in excluded)
    ):
        raise CheckpointError(
            f"hf_quant_config.json: exclude_modules = {reprlib.repr(excluded)}, not lm_head and nothing else",
            code="quantization-unsupported",
            hint="Quantize every decoder linear and leave lm_head in the model's dtype.",
        )
    match algorithm, kv:
        case "FP8", None | "FP8":
            return Quantization("fp8", kv_fp8=kv == "FP8")
        case "W4A16_AWQ", None:
            return Quantization("int4_awq", group_size=_group_size(block))
        case "W4A16_AWQ", "FP8":
            raise CheckpointError(
                "hf_quant_config.json: W4A16_AWQ with an FP8 KV cache",
                code="awq-with-fp8-kv",
                hint="Keep the KV cache in 16 bits: the builder turns paged context attention off for this"
                " pair, and with it chunked prefill and KV reuse.",
            )
        case _:
            raise CheckpointError(
                f"hf_quant_config.json: quant_algo {reprlib.repr(algorithm)}"
                f" with kv_cache_quant_algo {reprlib.repr(kv)}",
                code="quantization-unsupported",
                hint="Supported: FP8, FP8 with FP8 KV cache, W4A16_AWQ, and no quantization.",
            )


def _group_size(block: Mapping[str, Any]) -> int:
    """Upstream's group-wise kernel knows groups of 64 and 128 (weightOnlyGroupwiseQuantMatmulPlugin)."""
    size = block.get("group_size")
    if size not in (64, 128):
        raise CheckpointError(
            f"hf_quant_config.json: group_size = {reprlib.repr(size)} is neither 64 nor 128",
            code="group-size",
            hint="Quantize with group_size 128, or 64 for a smaller loss.",
        )
    return int(size)
