"""TensorRT-LLM engines and checkpoint in, a Triton model repository out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from enginewright_model import ModelSpec
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.triton_model import render_triton_model

__all__ = ["package_trtllm"]


def package_trtllm(
    engines: Mapping[str, Path],
    checkpoint: Path,
    out: Path,
    *,
    target: TrtllmTarget,
    dims: ModelSpec,
    name: str,
    max_tokens_default: int,
    mounted_at: str = "/models",
) -> None:
    """Write the repository into the empty folder `out`; the engines' files are hard links.

    engines: the folder of each variant of `target`, by its name. checkpoint: tokenizer, chat template,
    config.json and generation config. mounted_at: where the server sees the repository.
    """
    from enginewright_front.front_config import EngineModel
    from enginewright_front.trtllm_repository import TrtllmEngine, write_trtllm_repository

    write_trtllm_repository(
        out,
        engines=[
            TrtllmEngine(
                EngineModel(target.model_name(variant), variant.max_seq_len, target.max_batch_size),
                render_triton_model(target, variant, dims, repository=mounted_at),
                engines[variant.name],
            )
            for variant in target.variants
        ],
        checkpoint=checkpoint,
        name=name,
        quantization=target.format,
        max_queue=target.max_queue_size,
        max_tokens_default=max_tokens_default,
    )
