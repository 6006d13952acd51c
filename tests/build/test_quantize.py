"""Quantization by the real ModelOpt on tiny models: a checkpoint that is whole, and is the source's model."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from enginewright.checkpoint import Checkpoint, open_checkpoint
from enginewright.dequantized_linear import dequantize_linear
from enginewright.export_check import check_export
from enginewright.recipe import CalibrationRecipe, QuantizationRecipe
from enginewright.stages import quantize as stage
from enginewright.stages.quantize import QuantizationSummary, quantize
from enginewright.tensor_reader import TensorReader, e4m3_values
from enginewright.weight_files import find_weight_files
from enginewright_errors import CheckpointError, EnginewrightError, RecipeError, StageFailed
from safetensors.torch import load_file, save_file
from transformers import logging as transformers_logging

Tiny = Callable[..., Path]
FORMATS = ("int4_awq", "fp8", "int8_sq")
CALIBRATION = CalibrationRecipe(samples=4, length=64)


def run(
    source: Path, out: Path, quantization: str, group_size: int = 128, **calibration: Any
) -> QuantizationSummary:
    options = QuantizationRecipe(
        format=quantization,  # type: ignore[arg-type]
        group_size=group_size,  # type: ignore[arg-type]
        calibration=CALIBRATION.model_copy(update=calibration),
    )
    return quantize(open_checkpoint(source), out, options, threads=1)


@pytest.fixture(scope="module")
def quantized(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`quantized(format, **model)`: the quantized checkpoint of a tiny model, made once."""
    made: dict[str, Path] = {}

    def make(quantization: str, **model: Any) -> Path:
        key = repr((quantization, sorted(model.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("quantized")
            run(tiny(**model), made[key], quantization)
        return made[key]

    return make


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("quantization", FORMATS)
@pytest.mark.parametrize("arch", ["qwen2", "llama"])
def test_a_quantized_checkpoint_has_all_its_parts(
    quantized: Callable[..., Path], tiny: Tiny, quantization: str, arch: str
) -> None:
    source, folder = tiny(arch=arch), quantized(quantization, arch=arch)
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "hf_quant_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 1_000_000.0
    assert config["architectures"] == json.loads((source / "config.json").read_text())["architectures"]
    declared = json.loads((folder / "hf_quant_config.json").read_text())["quantization"]
    algorithms = {"int4_awq": "W4A16_AWQ", "fp8": "FP8", "int8_sq": "W8A8_SQ_PER_CHANNEL"}
    assert declared["quant_algo"] == config["quantization_config"]["quant_algo"] == algorithms[quantization]
    assert "lm_head" in declared["exclude_modules"]


@pytest.mark.parametrize("quantization", FORMATS)
def test_lm_head_and_embedding_keep_every_bit(
    quantized: Callable[..., Path], tiny: Tiny, quantization: str
) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny(), quantized(quantization)))
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(before[name], after[name])


def test_a_tied_bfloat16_model_keeps_its_dtype_and_has_no_lm_head(quantized: Callable[..., Path]) -> None:
    folder = quantized("int4_awq", arch="llama", tied=True, dtype="bfloat16")
    tensors = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in tensors
    assert tensors["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert tensors["model.layers.0.mlp.up_proj.weight_scale"].dtype == torch.float32
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"


def test_a_yarn_rope_is_written_for_old_and_new_readers(tiny: Tiny, tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    run(tiny(rope_scaling=yarn), tmp_path, "fp8")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_theta"] == 1_000_000.0
    assert config["rope_scaling"] == yarn
    assert config["rope_parameters"] == {**yarn, "rope_theta": 1_000_000.0}


@pytest.mark.parametrize("quantization", FORMATS)
def test_the_same_inputs_give_the_same_bytes(
    quantized: Callable[..., Path], tiny: Tiny, tmp_path: Path, quantization: str
) -> None:
    torch.manual_seed(99)  # a state that must not matter
    run(tiny(), tmp_path, quantization)
    assert hashes(tmp_path) == hashes(quantized(quantization))


def test_torch_and_the_terminal_are_left_as_they_were(
    tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (torch.get_num_threads(), transformers_logging.get_verbosity())
    bars, state = transformers_logging.is_progress_bar_enabled(), torch.random.get_rng_state()
    torch.set_num_threads(2)
    run(tiny(), tmp_path / "good", "int4_awq")
    with pytest.raises(EnginewrightError):
        run(nan_checkpoint(tiny, tmp_path / "nan"), tmp_path / "bad", "fp8")
    assert torch.get_num_threads() == 2 and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    torch.set_num_threads(before[0])
    assert transformers_logging.get_verbosity() == before[1]
    assert transformers_logging.is_progress_bar_enabled() == bars
    assert torch.equal(torch.random.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")


def test_progress_rises_to_its_total(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_BATCH_TOKENS", 64)
    seen: list[tuple[int, int]] = []
    options = QuantizationRecipe(format="int4_awq", calibration=CalibrationRecipe(samples=3, length=64))
    source = open_checkpoint(tiny())
    quantize(source, tmp_path, options, lambda done, total: seen.append((done, total)), threads=1)
    # Two passes of AWQ x three batches x two layers.
    assert seen == [(done, 12) for done in range(1, 13)]


@pytest.mark.parametrize("quantization", ["fp8", "int8_sq"])
def test_the_order_of_samples_does_not_change_a_scale(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantization: str
) -> None:
    run(tiny(), tmp_path / "one", quantization)
    monkeypatch.setattr(stage, "_BATCH_TOKENS", 64)  # a batch for each sample, and the samples reversed
    load = stage.load_calibration

    def reverse(*arguments: Any) -> Any:
        samples = load(*arguments)
        return type(samples)(samples.ids[::-1].copy())

    monkeypatch.setattr(stage, "load_calibration", reverse)
    run(tiny(), tmp_path / "two", quantization)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert set(one) == set(two)
    for name in one:
        if name.endswith("scale"):
            assert torch.allclose(one[name], two[name], rtol=1e-5), name


def test_calibration_text_changes_the_result_and_is_recorded(tiny: Tiny, tmp_path: Path) -> None:
    first = run(tiny(), tmp_path / "a", "int4_awq")
    second = run(tiny(), tmp_path / "b", "int4_awq", seed=7)
    assert first.calibration_sha256 != second.calibration_sha256
    assert hashes(tmp_path / "a")["model.safetensors"] != hashes(tmp_path / "b")["model.safetensors"]
    with pytest.raises(RecipeError) as caught:
        run(tiny(), tmp_path / "c", "fp8", samples=60_000)
    assert caught.value.code == "calibration-too-small"


def test_none_passes_the_weights_through_and_completes_the_rest(tiny: Tiny, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny(), tmp_path / "source"))
    config = json.loads((source / "config.json").read_text())
    del config["rope_parameters"]  # as transformers 4 writes it
    (source / "config.json").write_text(json.dumps(config))
    assert run(source, tmp_path / "out", "none") == QuantizationSummary(None, None, None)
    completed = json.loads((tmp_path / "out/config.json").read_text())
    assert completed["rope_parameters"] == {"rope_type": "default", "rope_theta": 1_000_000.0}
    assert "quantization_config" not in completed
    assert not (tmp_path / "out/hf_quant_config.json").exists()
    weights = tmp_path / "out/model.safetensors"
    assert weights.read_bytes() == (source / "model.safetensors").read_bytes()
    assert not weights.samefile(source / "model.safetensors")  # the cache makes its files read-only


def test_none_does_not_need_torch(tiny: Tiny, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from enginewright.checkpoint import open_checkpoint\n"
        "from enginewright.recipe import QuantizationRecipe\n"
        "from enginewright.stages.quantize import quantize\n"
        f"quantize(open_checkpoint(Path({str(tiny())!r})), Path({str(tmp_path / 'o')!r}),"
        " QuantizationRecipe(format='none'))\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'modelopt')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_group_that_does_not_divide_says_which_do(tiny: Tiny, tmp_path: Path) -> None:
    # SmolLM2's widths in small: 576 = 9 x 64.
    source = tiny(arch="llama", hidden=576, intermediate=768, heads=9, kv_heads=3, layers=1)
    with pytest.raises(RecipeError) as caught:
        run(source, tmp_path / "out", "int4_awq", 128)
    assert "group_size: 128 does not divide this model's layer width 576" in caught.value.message
    assert caught.value.hint == "set it to 64 or 32"
    assert not (tmp_path / "out").exists()
    assert run(source, tmp_path / "out", "int4_awq", 64).worst_error
    scale = load_file(tmp_path / "out/model.safetensors")["model.layers.0.self_attn.q_proj.weight_scale"]
    assert scale.shape == (576, 9)


def nan_checkpoint(tiny: Tiny, folder: Path, value: float = float("nan")) -> Path:
    shutil.copytree(tiny(), folder)

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 7] = value

    change_weights(folder, spoil)
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(tiny: Tiny, tmp_path: Path, value: float) -> None:
    with pytest.raises(CheckpointError) as caught:
        run(nan_checkpoint(tiny, tmp_path / "bad", value), tmp_path / "out", "int4_awq")
    assert "model.layers.1.mlp.up_proj.weight" in caught.value.message
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("quantization", FORMATS)
def test_rows_of_zeros_and_dead_channels_survive(tiny: Tiny, tmp_path: Path, quantization: str) -> None:
    folder = Path(shutil.copytree(tiny(), tmp_path / "zeros"))

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.mlp.up_proj.weight"][3] = 0
        tensors["model.layers.0.mlp.up_proj.weight"][5, :128] = 0
        tensors["model.layers.0.input_layernorm.weight"][9] = 0

    change_weights(folder, spoil)
    run(folder, tmp_path / "out", quantization)
    reader = TensorReader(find_weight_files(tmp_path / "out").tensors)
    weight = dequantize_linear(reader, "model.layers.0.mlp.up_proj").effective
    assert not weight[3].any() and not weight[5, :128].any() and weight[5, 128:].any()


Tensors = dict[str, torch.Tensor]
DOWN = "model.layers.1.mlp.down_proj"


def double_a_scale(tensors: Tensors) -> None:
    tensors[f"{DOWN}.weight_scale"] *= 2


def swap_the_nibbles(tensors: Tensors) -> None:
    packed = tensors[f"{DOWN}.weight"]
    tensors[f"{DOWN}.weight"] = (packed << 4) | (packed >> 4)


def fold_a_norm_twice(tensors: Tensors) -> None:
    tensors["model.layers.1.input_layernorm.weight"] *= 1.6


def quantize_the_head(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.int8)


def leave_a_layer_out(tensors: Tensors) -> None:
    tensors[f"{DOWN}.weight"] = torch.randn(256, 512)


def a_scale_of(value: float) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[f"{DOWN}.weight_scale"][0, 0] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (double_a_scale, f"{DOWN} differs from the source's by 1"),
        (swap_the_nibbles, f"{DOWN} differs"),
        (fold_a_norm_twice, "model.layers.1.self_attn.q_proj differs"),
        (quantize_the_head, "lm_head.weight was quantized to I8"),
        (leave_a_layer_out, f"{DOWN} is float, not int4"),
        (lambda tensors: tensors.pop(f"{DOWN}.weight_scale"), f"{DOWN}.weight_scale is missing"),
        (lambda tensors: tensors.pop("model.layers.0.self_attn.k_proj.bias"), "k_proj.bias is missing"),
        (lambda tensors: tensors["model.norm.weight"].mul_(1.01), "model.norm.weight is not the source's"),
        (a_scale_of(0.0), f"{DOWN}.weight_scale has values that are not finite and positive"),
        (a_scale_of(-0.1), f"{DOWN}.weight_scale has values"),
        (a_scale_of(float("inf")), f"{DOWN}.weight_scale has values"),
        (a_scale_of(float("nan")), f"{DOWN}.weight_scale has values"),
    ],
)
def test_an_export_that_is_not_the_sources_model_is_caught(
    quantized: Callable[..., Path], tiny: Tiny, tmp_path: Path, change: Callable[[Tensors], Any], says: str
) -> None:
    folder = Path(shutil.copytree(quantized("int4_awq"), tmp_path / "spoilt"))
    source: Checkpoint = open_checkpoint(tiny())
    assert check_export(source, folder, "int4_awq").worst_error < 0.25
    change_weights(folder, change)
    with pytest.raises((StageFailed, CheckpointError)) as caught:
        check_export(source, folder, "int4_awq")
    assert says in caught.value.message and caught.value.hint


@pytest.mark.parametrize("quantization", FORMATS)
def test_the_check_needs_no_matrix_in_memory(
    tiny: Tiny, quantized: Callable[..., Path], quantization: str
) -> None:
    """A linear of a 32B model is 566 MB in float32; here one of its matrices has 33 MB."""
    model = {"intermediate": 32768, "layers": 1}
    folder, source = quantized(quantization, **model), open_checkpoint(tiny(**model))
    tracemalloc.start()
    try:
        check_export(source, folder, quantization)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10e6


@pytest.mark.parametrize("quantization", FORMATS)
def test_our_reading_of_the_tensors_is_modelopts(
    quantized: Callable[..., Path], tiny: Tiny, quantization: str
) -> None:
    """Against the definition of each format, written out with torch on whole tensors."""
    tensors = load_file(quantized(quantization) / "model.safetensors")
    reader = TensorReader(find_weight_files(quantized(quantization)).tensors)
    for name in ("model.layers.0.self_attn.o_proj", DOWN):
        stored, scale = tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"]
        if quantization == "int4_awq":
            low, high = stored & 15, stored >> 4
            codes = torch.stack([low, high], dim=1).reshape(-1, stored.shape[1]).to(torch.int32)
            values = torch.where(codes > 7, codes - 16, codes).float() * scale.repeat_interleave(128, dim=1)
        else:
            values = stored.float() * scale.reshape(-1, 1)
        if f"{name}.pre_quant_scale" in tensors:
            values = values * tensors[f"{name}.pre_quant_scale"]
        assert np.array_equal(dequantize_linear(reader, name).effective, values.numpy())


def test_every_code_of_fp8_has_torchs_value() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    assert np.array_equal(e4m3_values(), codes.view(torch.float8_e4m3fn).float().numpy(), equal_nan=True)
