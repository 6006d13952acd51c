"""A checked source checkpoint as a model of transformers, for ModelOpt to quantize."""

from __future__ import annotations

from typing import Any

from enginewright_errors import StageFailed

from enginewright.checkpoint import Checkpoint
from enginewright.export_checkpoint import source_dtype
from enginewright.transformers_config import transformers_config

__all__ = ["FLOAT32_PARAMETERS", "load_model"]

# Calibrate in float32 up to this many parameters (16 GB); larger models stay in the dtype they are stored in.
FLOAT32_PARAMETERS = 4_000_000_000


def load_model(source: Checkpoint) -> Any:
    """The model on the CPU, in float32 where it is small enough. Raises StageFailed when that fails."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    small = source.num_parameters <= FLOAT32_PARAMETERS
    try:
        return AutoModelForCausalLM.from_pretrained(
            source.folder,
            config=transformers_config(source.spec),
            generation_config=GenerationConfig(),  # not the checkpoint's, which transformers may refuse
            dtype=torch.float32 if small else getattr(torch, source_dtype(source)),
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        ).eval()
    except MemoryError:
        raise
    except Exception as error:  # of every type there is: of transformers, safetensors, torch and the disk
        raise StageFailed(
            f"quantize: transformers cannot load {source.folder}: {type(error).__name__}: {str(error)[:500]}",
            code="model-load",
            hint="see the cause with --debug; the checkpoint was sound when the build began: did it change?",
        ) from error
