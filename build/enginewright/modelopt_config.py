"""ModelOpt's quantization configuration for a recipe, and what of a model it cannot be applied to.

Formats (ModelOpt's presets, all with lm_head and embeddings left alone):
- int4_awq: INT4_AWQ_CFG, weights in groups along the input, scales searched by AWQ-lite. On SmolLM2 (groups
  of 64, 4,096 calibration tokens, KL against FP32 on Wikipedia) AWQ has 0.30 where plain rounding has 0.56.
  A grid of 0.2 instead of 0.1 saves half of the time for 3% more KL; groups of 32 have 0.22.
- fp8: FP8_DEFAULT_CFG, E4M3 weights and activations with one scale each.
- int8_sq: INT8_SMOOTHQUANT_CFG, weights per row, activations per tensor.
For TensorRT-LLM fp8 may come with an FP8 KV cache (FP8_KV_CFG): one scale a layer for keys, one for values.
"""

from __future__ import annotations

import copy
from typing import Any

from enginewright_errors import RecipeError
from enginewright_model import ModelSpec

from enginewright.recipe import QuantizationRecipe

__all__ = ["CALIBRATION_PASSES", "check_group_size", "modelopt_config"]

# How often each algorithm runs the calibration data through the model.
CALIBRATION_PASSES = {"int4_awq": 2, "fp8": 1, "int8_sq": 1}
_GROUP_SIZES = (256, 128, 64, 32, 16)


def modelopt_config(options: QuantizationRecipe, *, fp8_kv: bool = False) -> dict[str, Any]:
    """The argument `config` of `mtq.quantize` for `options.format`, which is not "none".

    fp8_kv: calibrate the KV cache's scales too; for fp8 only.
    """
    import modelopt.torch.quantization as mtq

    presets = {"int4_awq": mtq.INT4_AWQ_CFG, "fp8": mtq.FP8_DEFAULT_CFG, "int8_sq": mtq.INT8_SMOOTHQUANT_CFG}
    config: dict[str, Any] = copy.deepcopy(presets[options.format])
    if options.format == "int4_awq":
        for entry in config["quant_cfg"]:
            if entry["quantizer_name"] == "*weight_quantizer":
                entry["cfg"]["block_sizes"] = {-1: options.group_size, "type": "static"}
        config["algorithm"] = {"method": "awq_lite", "alpha_step": 0.1}
    cache = copy.deepcopy(mtq.FP8_KV_CFG["quant_cfg"]) if fp8_kv else []
    kept = [{"quantizer_name": f"*.layers.{index}.*", "enable": False} for index in options.keep_layers]
    config["quant_cfg"] = [*config["quant_cfg"], *cache, *kept]
    return config


def check_group_size(spec: ModelSpec, options: QuantizationRecipe) -> None:
    """Raise RecipeError unless the group divides every quantized linear's input; the hint says which do."""
    if options.format != "int4_awq":
        return
    broken = [width for width in spec.linear_input_widths if width % options.group_size]
    if not broken:
        return
    widths = spec.linear_input_widths
    fitting = [str(size) for size in _GROUP_SIZES if all(width % size == 0 for width in widths)]
    raise RecipeError(
        f"quantization.group_size: {options.group_size} does not divide this model's layer width {broken[0]}",
        code="group-does-not-divide",
        hint=f"set it to {' or '.join(fitting[:2])}" if fitting else "set quantization.format to fp8",
    )
