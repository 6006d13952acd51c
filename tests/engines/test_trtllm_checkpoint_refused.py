"""Unsuitable sources are refused before anything is written; an interrupted write leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.trtllm_writing import Made, write
from enginewright_errors import (
    CheckpointError,
    DoesNotFit,
    EnginewrightError,
    RecipeError,
    StageFailed,
    UsageError,
)
from enginewright_trtllm import check_checkpoint
from safetensors.torch import load_file
from trtllm_models import (
    Tensors,
    save,
    write_quant_config,
)


def test_an_interrupted_write_leaves_nothing_that_could_be_built(
    unifieds: dict[str, Made], tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(unifieds["none"][0], tmp_path / "out", tp=2, progress=stop)
    assert list((tmp_path / "out").iterdir()) == []
    assert [problem.code for problem in check_checkpoint(tmp_path / "out")] == ["config-missing"]


def test_a_disk_error_is_told_and_leaves_no_rank_file(
    unifieds: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StageFailed, match="No space left on device"):
        write(unifieds["none"][0], tmp_path / "out", tp=2)
    monkeypatch.undo()
    write(unifieds["none"][0], tmp_path / "out", tp=2)


def test_a_used_folder_is_not_written_into(unifieds: dict[str, Made], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rank0.safetensors").touch()
    with pytest.raises(UsageError, match="not empty"):
        write(unifieds["none"][0], tmp_path / "out")


def test_a_full_disk_is_noticed_before_the_first_byte(
    unifieds: dict[str, Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(usage)(usage.total, usage.total, 1000))
    with pytest.raises(DoesNotFit, match="GB free"):
        write(unifieds["none"][0], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def copy_of(made: Made, folder: Path) -> tuple[Path, Tensors]:
    shutil.copytree(made[0], folder)
    return folder, dict(made[1])


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"self_attn.k_proj.bias": None}, "tensor-missing", "k_proj.bias"),
        ({"self_attn.o_proj.bias": torch.zeros(160)}, "tensor-unexpected", "o_proj.bias"),
        ({"mlp.up_proj.weight": torch.zeros(288, 161)}, "tensor-mismatch", "up_proj.weight"),
        ({"input_layernorm.weight": torch.zeros(160, dtype=torch.int64)}, "tensor-mismatch", "I64"),
    ],
)
def test_a_source_whose_tensors_do_not_fit_is_refused_by_name(
    unifieds: dict[str, Made], tmp_path: Path, change: dict[str, torch.Tensor | None], code: str, named: str
) -> None:
    folder, tensors = copy_of(unifieds["none"], tmp_path / "unified")
    for suffix, tensor in change.items():
        name = f"model.layers.1.{suffix}"
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save(folder, tensors)
    with pytest.raises(CheckpointError, match=named) as caught:
        write(folder, tmp_path / "out")
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"quant_algo": "NVFP4"}, "NVFP4"),
        ({"quant_algo": "W4A16_AWQ", "group_size": 32}, "group_size = 32"),
        ({"quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": "FP8"}, "FP8 KV cache"),
        ({"exclude_modules": ["model.embed_tokens"]}, "exclude_modules"),
        ({"exclude_modules": ["lm_head", "model.layers.0*"]}, "layers.0"),
    ],
)
def test_a_quantization_that_has_no_checkpoint_is_refused(
    unifieds: dict[str, Made], tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    folder, _ = copy_of(unifieds["fp8"], tmp_path / "unified")
    write_quant_config(folder, "fp8", **change)
    with pytest.raises(CheckpointError, match=named):
        write(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mistral"}, "mistral"),
        ({"use_sliding_window": True, "max_window_layers": 1}, "sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ({"dtype": "int8"}, "int8"),
        ({"rope_theta": 10000.0}, "rope_theta"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
    ],
)
def test_a_model_that_would_be_served_wrongly_is_refused(
    unifieds: dict[str, Made], tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    folder, _ = copy_of(unifieds["none"], tmp_path / "unified")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=named):
        write(folder, tmp_path / "out")


def test_a_head_that_is_neither_there_nor_tied_is_missed(unifieds: dict[str, Made], tmp_path: Path) -> None:
    folder, tensors = copy_of(unifieds["none"], tmp_path / "unified")
    del tensors["lm_head.weight"]
    save(folder, tensors)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        write(folder, tmp_path / "out")


@pytest.mark.parametrize("keep", [4, 100, 20000])
def test_a_cut_file_is_refused(unifieds: dict[str, Made], tmp_path: Path, keep: int) -> None:
    folder, _ = copy_of(unifieds["none"], tmp_path / "unified")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        write(folder, tmp_path / "out")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_no_calibration_gives_is_refused(
    unifieds: dict[str, Made], tmp_path: Path, value: float
) -> None:
    folder, tensors = copy_of(unifieds["fp8"], tmp_path / "unified")
    tensors["model.layers.2.mlp.down_proj.input_scale"] = torch.tensor(value)
    save(folder, tensors)
    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp\.down_proj\.input_scale"):
        write(folder, tmp_path / "out")


def test_prequant_scales_of_one_input_must_agree(unifieds: dict[str, Made], tmp_path: Path) -> None:
    folder, tensors = copy_of(unifieds["int4_awq"], tmp_path / "unified")
    tensors["model.layers.0.self_attn.q_proj.pre_quant_scale"] = torch.full((512,), 2.0).bfloat16()
    save(folder, tensors)
    with pytest.raises(CheckpointError, match=r"attention\.qkv\.prequant_scaling_factor"):
        write(folder, tmp_path / "out")
    for part in "kv":
        tensors[f"model.layers.0.self_attn.{part}_proj.pre_quant_scale"] = torch.full((512,), 2.0).bfloat16()
    save(folder, tensors)
    out = write(folder, tmp_path / "agreeing")
    scale = load_file(out / "rank0.safetensors")["transformer.layers.0.attention.qkv.prequant_scaling_factor"]
    assert (scale == 2.0).all()


@pytest.mark.parametrize(("options", "error"), [({"tp": 16}, RecipeError), ({"pp": 3}, RecipeError)])
def test_sizes_that_do_not_divide_write_nothing(
    unifieds: dict[str, Made], tmp_path: Path, options: dict[str, int], error: type[EnginewrightError]
) -> None:
    with pytest.raises(error, match="multiple of"):
        write(unifieds["fp8"][0], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
