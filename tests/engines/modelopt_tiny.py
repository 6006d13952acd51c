"""Quantizes a tiny checkpoint with the real ModelOpt and exports its unified Hugging Face checkpoint.

A small stand-in for the pipeline's quantize stage, so that the engine's tests need only the engine.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["quantize_tiny"]

_CONFIGS = {
    "int4_awq": "INT4_AWQ_CFG",
    "fp8": "FP8_DEFAULT_CFG",
    "fp8_per_channel": "FP8_PER_CHANNEL_PER_TOKEN_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
}


def quantize_tiny(source: Path, out: Path, quantization: str, *, group_size: int = 128) -> Path:
    """Export `source`, quantized to one of the formats above after a small random calibration, into `out`."""
    import torch
    from transformers import AutoModelForCausalLM

    with contextlib.redirect_stdout(io.StringIO()):
        import modelopt.torch.quantization as mtq
        from modelopt.torch.export import export_hf_checkpoint

        config: dict[str, Any] = copy.deepcopy(getattr(mtq, _CONFIGS[quantization]))
        if quantization == "int4_awq":
            for entry in config["quant_cfg"]:
                blocks = (
                    (entry.get("cfg") or {}).get("block_sizes")
                    if isinstance(entry.get("cfg"), dict)
                    else None
                )
                if blocks:
                    blocks[-1] = group_size
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
        ids = torch.from_numpy(np.random.default_rng(7).integers(3, model.config.vocab_size, (4, 64)))
        with torch.inference_mode():
            mtq.quantize(model, config, lambda calibrated: calibrated(ids))
            export_hf_checkpoint(model, export_dir=str(out))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, out / name)
    exported = json.loads((out / "config.json").read_text())
    exported["rope_theta"] = exported["rope_parameters"]["rope_theta"]
    (out / "config.json").write_text(json.dumps(exported, indent=2, sort_keys=True))
    return out
