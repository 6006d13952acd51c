"""A recipe for TensorRT-LLM: which engines of a checkpoint run on which GPUs.

The comment above a field says when to change it; what a combination costs and what is wrong with it is said
by `enginewright check`, from `enginewright_trtllm`.
"""

from __future__ import annotations

from typing import Literal

from enginewright_trtllm.gpus import lookup_gpu
from enginewright_trtllm.target import Format, TrtllmTarget, Variant, Yarn
from enginewright_trtllm.versions import PINNED_CONTAINER
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from enginewright.price import report_tokens
from enginewright.recipe import (
    MAX_TOKENS,
    CalibrationRecipe,
    CheckpointRecipe,
    ContextRecipe,
    GateRecipe,
    Line,
    QuantizationRecipe,
    ReportRecipe,
    Section,
    ServingRecipe,
)

__all__ = ["TrtllmRecipe", "modelopt_recipe", "trtllm_target"]

_FORMATS: dict[str, Format] = {"int4_awq": "int4_awq", "fp8": "fp8", "none": "bf16"}


class TrtllmQuantization(Section):
    # fp8 on Hopper, Ada and later; int4_awq where memory is short; none keeps 16 bits a weight.
    format: Literal["int4_awq", "fp8", "none"] = "fp8"
    # int4_awq only: what upstream's kernels take.
    group_size: Literal[64, 128] = 128
    # The built-in text has room for these; upstream's default is 512 samples, which want text of your own.
    calibration: CalibrationRecipe = CalibrationRecipe(samples=24, length=512)


class TrtllmEngines(Section):
    # A card by name, such as H100-80, H200-141, A100-80, L40S-48, B200-192 or RTX4090-24.
    gpu: Line = Field(default="H100-80", min_length=1, max_length=64)
    # Cards of the server, all nodes together. Null takes tp x pp, one for each rank.
    gpus: int | None = Field(default=None, ge=1, le=1024)
    # Machines that the cards are in. More than one is deployed as a LeaderWorkerSet.
    nodes: int = Field(default=1, ge=1, le=64)
    # Tensor parallelism: each layer is split over so many cards. It must divide the KV heads.
    tp: int = Field(default=1, ge=1, le=64)
    # Pipeline parallelism: the layers are dealt out to so many groups of cards.
    pp: int = Field(default=1, ge=1, le=64)
    # auto keeps 16 bits. fp8 halves the cache; with QKV bias (Qwen2, QwQ) it has cost accuracy.
    kv_cache: Literal["auto", "fp8"] = "auto"
    # Requests that are decoded together.
    max_batch_size: int = Field(default=16, ge=1, le=2048)
    # Tokens a step. With chunked context, which is on, it does not bound the prompt.
    max_num_tokens: int = Field(default=8192, ge=64, le=131_072)
    # Prompt and answer of the native engine, in tokens.
    max_seq_len: int = Field(default=32_768, ge=64, le=MAX_TOKENS)
    # Share of the memory that is free after loading which the KV cache takes.
    kv_cache_free_gpu_mem_fraction: float = Field(
        default=0.9, gt=0.0, lt=1.0, json_schema_extra={"maximum": 1}
    )
    # Ranks that are compiled at the same time. Null takes all; fewer need less host memory.
    workers: int | None = Field(default=None, ge=1, le=64)
    # The month of NVIDIA's tritonserver container that builds and serves.
    container: str = Field(default=PINNED_CONTAINER, pattern=r"^[0-9]{2}\.[0-9]{2}$")


class TrtllmReport(ReportRecipe):
    """Of the quantized checkpoint: its engine does not run where it is measured."""

    # Answers of the checkpoints, on the CPU: where the original fits into its memory in float32. QwQ-32B
    # takes 164 GB, so the default is none.
    prompts: int = Field(default=0, ge=0, le=24)


class TrtllmGate(GateRecipe):
    """Bounds of the quantized checkpoint. Rank files have one format for all layers: nothing to repair."""

    repair: Literal[False] = False


# What the built-in text gives at most, by the tokenizer that cuts it smallest of those that were tried.
_BUILTIN_TOKENS = 20_000


class TrtllmRecipe(Section):
    # Names the output folder and the build; letters, digits, dot, dash and underscore.
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    checkpoint: CheckpointRecipe
    target: Literal["trtllm"]
    quantization: TrtllmQuantization = TrtllmQuantization()
    trtllm: TrtllmEngines = TrtllmEngines()
    # `native` is what the model was trained on; `long` adds a second engine with YaRN.
    context: ContextRecipe = ContextRecipe()
    report: TrtllmReport = TrtllmReport()
    gate: TrtllmGate = TrtllmGate()
    serving: ServingRecipe = ServingRecipe()

    @model_validator(mode="after")
    def _text_is_enough(self) -> TrtllmRecipe:
        """Said here and not after 65 GB were downloaded."""
        calibration, field = self.quantization.calibration, "quantization.calibration.samples"
        tokens = calibration.samples * calibration.length
        unused = self.quantization.format == "none"
        if calibration.data == "builtin" and tokens > _BUILTIN_TOKENS and not unused:
            fitting = max(1, _BUILTIN_TOKENS // 2 // calibration.length)
            raise PydanticCustomError(
                "calibration",
                f"{field}: {calibration.samples} x {calibration.length} tokens are more than the built-in "
                "text has",
                {
                    "field": field,
                    "hint": f"set it to {fitting}, or give text with quantization.calibration.data",
                },
            )
        return self


def trtllm_target(recipe: TrtllmRecipe) -> TrtllmTarget:
    """The target that `enginewright_trtllm` plans and checks."""
    engines, long, calibration = recipe.trtllm, recipe.context.long, recipe.quantization.calibration
    card = lookup_gpu(engines.gpu)  # by any of its names; an unknown one is a finding
    variants = [Variant("native", engines.max_seq_len)]
    if long is not None:
        variants.append(Variant("long", long.max_seq_len, Yarn(long.factor, recipe.context.native)))
    return TrtllmTarget(
        format=_FORMATS[recipe.quantization.format],
        gpu=card.name if card is not None else engines.gpu,
        gpu_count=engines.gpus or engines.tp * engines.pp,
        nodes=engines.nodes,
        tp=engines.tp,
        pp=engines.pp,
        fp8_kv=engines.kv_cache == "fp8",
        group_size=recipe.quantization.group_size,
        variants=tuple(variants),
        max_batch_size=engines.max_batch_size,
        max_num_tokens=engines.max_num_tokens,
        kv_cache_free_gpu_mem_fraction=engines.kv_cache_free_gpu_mem_fraction,
        calibration_tokens=calibration.samples * calibration.length,
        report_tokens=report_tokens(recipe.report),
        max_queue_size=recipe.serving.max_queue,
        workers=engines.workers,
        container=engines.container,
    )


def modelopt_recipe(recipe: TrtllmRecipe) -> QuantizationRecipe:
    """What ModelOpt is asked to do; an FP8 KV cache is asked for beside it."""
    quantization = recipe.quantization
    return QuantizationRecipe(
        format=quantization.format,
        group_size=quantization.group_size,
        calibration=quantization.calibration,
    )
