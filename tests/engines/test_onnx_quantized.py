"""Engines of checkpoints that the real ModelOpt exported, against the same, dequantized, in transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from engines.graph_runner import GraphRunner, scaled_error
from engines.reference_model import ReferenceModel
from enginewright_onnx import EngineOptions, write_engine

TOKENS = np.random.default_rng(3).integers(3, 512, 128)
FORMATS = ["int4_awq", "fp8", "int8_sq"]
EXACT = EngineOptions(max_seq_len=256, accuracy_level=0, lm_head="fp32", fp8_compute="fp32")
FAST = EngineOptions(max_seq_len=256, accuracy_level=4, lm_head="int8", fp8_compute="int8")


def mean_kl(expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]) -> float:
    """KL(expected || actual) of the next-token distributions, averaged over positions, in nats."""

    def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    reference = log_softmax(expected)
    return float((np.exp(reference) * (reference - log_softmax(actual))).sum(axis=1).mean())


@pytest.mark.parametrize("arch", ["qwen2", "llama"])
@pytest.mark.parametrize("quantization", FORMATS)
def test_at_accuracy_level_0_the_engine_is_the_dequantized_checkpoint(
    quantized: Callable[..., Path], tmp_path: Path, quantization: str, arch: str
) -> None:
    checkpoint = quantized(quantization, arch=arch, tied=arch == "llama")
    summary = write_engine(checkpoint, tmp_path, EXACT)
    logits = GraphRunner(tmp_path, capacity=128).step(TOKENS[None])
    assert summary.quantization == quantization
    assert scaled_error(logits, ReferenceModel(checkpoint).logits(TOKENS)) <= 1e-5


def test_fp8_scales_of_each_channel_are_exact(quantized: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = quantized("fp8_per_channel", arch="qwen2", layers=1)
    write_engine(checkpoint, tmp_path, EXACT)
    logits = GraphRunner(tmp_path, capacity=128).step(TOKENS[None])
    assert scaled_error(logits, ReferenceModel(checkpoint).logits(TOKENS)) <= 1e-5


@pytest.mark.parametrize("group_size", [16, 64, 256])
def test_every_group_size_is_exact(quantized: Callable[..., Path], tmp_path: Path, group_size: int) -> None:
    checkpoint = quantized("int4_awq", group_size=group_size, arch="qwen2", layers=1)
    write_engine(checkpoint, tmp_path, EXACT)
    description = GraphRunner(tmp_path).description
    logits = GraphRunner(tmp_path, capacity=128).step(TOKENS[None])
    assert description["quantization"]["group_size"] == group_size
    assert scaled_error(logits, ReferenceModel(checkpoint).logits(TOKENS)) <= 1e-5


@pytest.mark.parametrize("quantization", FORMATS)
def test_a_narrow_checkpoint_keeps_its_scales_exact(
    quantized: Callable[..., Path], tmp_path: Path, quantization: str
) -> None:
    checkpoint = quantized(quantization, arch="qwen2", dtype="bfloat16", layers=1)
    write_engine(checkpoint, tmp_path, EXACT)
    logits = GraphRunner(tmp_path, capacity=128).step(TOKENS[None])
    assert scaled_error(logits, ReferenceModel(checkpoint).logits(TOKENS)) <= 1e-5


@pytest.mark.parametrize("quantization", FORMATS)
def test_the_fast_settings_cost_little_beside_the_quantization(
    quantized: Callable[..., Path],
    tiny: Callable[..., Path],
    tmp_path: Path,
    quantization: str,
    record_property: Callable[[str, object], None],
) -> None:
    checkpoint = quantized(quantization, arch="qwen2", tied=False)
    write_engine(checkpoint, tmp_path, FAST)
    logits = GraphRunner(tmp_path, capacity=128).step(TOKENS[None])
    expected = ReferenceModel(checkpoint).logits(TOKENS)
    cost = mean_kl(expected, logits)
    agreement = float((expected.argmax(axis=1) == logits.argmax(axis=1)).mean())
    quantization_cost = mean_kl(ReferenceModel(tiny(arch="qwen2", tied=False)).logits(TOKENS), expected)
    record_property("kl", cost)
    record_property("top1", agreement)
    record_property("kl_of_quantization", quantization_cost)
    assert 1e-7 < cost <= 5e-3
    assert agreement >= 0.9


def test_a_layer_that_the_quantizer_left_out_stays_float(
    quantized: Callable[..., Path], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    source, plain = quantized("int4_awq", arch="qwen2", tied=False), tiny(arch="qwen2", tied=False)
    mixed = tmp_path / "checkpoint"
    mixed.mkdir()
    for name in ("config.json", "hf_quant_config.json"):
        (mixed / name).write_bytes((source / name).read_bytes())
    state, dense = load_file(source / "model.safetensors"), load_file(plain / "model.safetensors")
    layer = "model.layers.1.mlp.down_proj"
    for part in ("weight_scale", "pre_quant_scale"):
        del state[f"{layer}.{part}"]
    state[f"{layer}.weight"] = dense[f"{layer}.weight"]
    save_file(state, mixed / "model.safetensors")
    write_engine(mixed, tmp_path / "engine", EXACT)
    logits = GraphRunner(tmp_path / "engine", capacity=128).step(TOKENS[None])
    assert scaled_error(logits, ReferenceModel(mixed).logits(TOKENS)) <= 1e-5


def test_the_head_rounded_to_int8_is_near_the_float_head(tiny: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = tiny(arch="qwen2", tied=True)
    expected = ReferenceModel(checkpoint).logits(TOKENS)
    write_engine(checkpoint, tmp_path, EngineOptions(max_seq_len=256, accuracy_level=0, lm_head="int8"))
    logits = GraphRunner(tmp_path, capacity=128).step(TOKENS[None])
    assert 1e-5 < scaled_error(logits, expected) <= 2e-2
    assert mean_kl(expected, logits) <= 2e-4
