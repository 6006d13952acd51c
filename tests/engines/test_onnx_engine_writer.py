"""`write_engine` as a caller sees it: the folder, its description, repeatability, memory, refusals."""

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
from engines.graph_runner import GraphRunner
from enginewright_errors import CheckpointError, DoesNotFit, EnginewrightError, RecipeError, UsageError
from enginewright_onnx import EngineOptions, LongContext, write_engine
from safetensors.torch import load_file, save_file

SMALL = EngineOptions(max_seq_len=256)
FILES = ["engine.json", "model.onnx", "model.onnx.data"]


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def changed(source: Path, out: Path, **tensors: torch.Tensor | None) -> Path:
    """A copy of `source` with tensors replaced, added or (None) removed; `__` stands for a dot in a name."""
    shutil.copytree(source, out)
    state = load_file(out / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor is None:
            del state[name.replace("__", ".")]
        else:
            state[name.replace("__", ".")] = tensor
    save_file(state, out / "model.safetensors")
    return out


def reconfigured(source: Path, out: Path, **fields: Any) -> Path:
    shutil.copytree(source, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **fields}))
    return out


@pytest.mark.parametrize("quantization", ["none", "int4_awq", "fp8"])
def test_the_same_inputs_give_the_same_bytes(
    tiny: Callable[..., Path], quantized: Callable[..., Path], tmp_path: Path, quantization: str
) -> None:
    arguments = {"arch": "qwen2", "tied": False}
    checkpoint = tiny(**arguments) if quantization == "none" else quantized(quantization, **arguments)
    for name in ("one", "two"):
        write_engine(checkpoint, tmp_path / name, SMALL)
    assert sorted(digests(tmp_path / "one")) == FILES
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_shards_give_the_same_engine_as_one_file(tiny: Callable[..., Path], tmp_path: Path) -> None:
    source, sharded = tiny(arch="qwen2"), tmp_path / "sharded"
    shutil.copytree(source, sharded)
    state = load_file(source / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    names = sorted(state)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, sharded / file)
        weight_map.update(dict.fromkeys(part, file))
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    write_engine(source, tmp_path / "one", SMALL)
    write_engine(sharded, tmp_path / "two", SMALL)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_engine_json_describes_the_engine(quantized: Callable[..., Path], tmp_path: Path) -> None:
    options = EngineOptions(
        max_seq_len=100,
        max_batch_size=3,
        prefill_chunk=64,
        kv_budget_bytes=1 << 20,
        threads=2,
        long_context=LongContext(300, 4.0, 128),
    )
    summary = write_engine(quantized("fp8", arch="llama", tied=True), tmp_path, options)
    text = (tmp_path / "engine.json").read_text()
    description = json.loads(text)
    assert text == json.dumps(description, indent=2, sort_keys=True) + "\n"
    assert description["architecture"] == "llama"
    assert description["quantization"] == {
        "format": "fp8",
        "group_size": None,
        "accuracy_level": 4,
        "lm_head": "int8",
        "fp8_compute": "int8",
    }
    assert description["context"] == {
        "native": {
            "max_seq_len": 100,
            "rope_offset": 0,
            "rope": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        "long": {
            "max_seq_len": 300,
            "rope_offset": 100,
            "rope": {
                "rope_type": "yarn",
                "rope_theta": 1000000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        },
    }
    assert description["limits"] == {
        "max_seq_len": 300,
        "max_batch_size": 3,
        "prefill_chunk": 64,
        "kv_budget_bytes": 1 << 20,
        "kv_dtype": "float32",
    }
    assert description["eos_token_ids"] == [2, 0]
    assert (description["pad_token_id"], description["bos_token_id"]) == (0, 0)
    assert description["threads"] == 2
    assert summary.kv_bytes_per_token == 2 * 2 * 2 * 64 * 4
    assert summary.weight_bytes == (tmp_path / "model.onnx.data").stat().st_size


def test_a_tied_table_is_stored_once(tiny: Callable[..., Path], tmp_path: Path) -> None:
    options = EngineOptions(max_seq_len=64, lm_head="fp32")
    sizes = {}
    for tied in (False, True):
        out = tmp_path / str(tied)
        sizes[tied] = write_engine(tiny(arch="llama", tied=tied, dtype="bfloat16"), out, options).weight_bytes
    assert sizes[False] - sizes[True] == 512 * 256 * 4


def test_progress_rises_to_its_total(quantized: Callable[..., Path], tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    write_engine(
        quantized("int4_awq", arch="qwen2", tied=False), tmp_path, SMALL, lambda *step: reported.append(step)
    )
    done = [step[0] for step in reported]
    assert len({step[1] for step in reported}) == 1
    assert done == sorted(done)
    assert reported[-1][0] == reported[-1][1] > 0
    assert len(reported) > 20


def test_memory_does_not_grow_with_the_weights(tmp_path: Path) -> None:
    vocab, hidden = 120_000, 512
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": 4096,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "vocab_size": vocab,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
    }
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps(config))
    state = {
        name: torch.ones(vocab, hidden, dtype=torch.bfloat16) for name in ("model.embed_tokens", "lm_head")
    }
    state["model.norm"] = torch.ones(hidden)
    for index in range(2):
        layer = f"model.layers.{index}"
        state[f"{layer}.input_layernorm"] = state[f"{layer}.post_attention_layernorm"] = torch.ones(hidden)
        for name in "qkvo":
            state[f"{layer}.self_attn.{name}_proj"] = torch.ones(hidden, hidden, dtype=torch.bfloat16)
        for name, shape in (("gate", (4096, hidden)), ("up", (4096, hidden)), ("down", (hidden, 4096))):
            state[f"{layer}.mlp.{name}_proj"] = torch.ones(shape, dtype=torch.bfloat16)
    save_file(
        {f"{name}.weight": tensor.clone() for name, tensor in state.items()}, checkpoint / "model.safetensors"
    )
    largest_float32 = vocab * hidden * 4
    tracemalloc.start()
    write_engine(checkpoint, tmp_path / "engine", EngineOptions(max_seq_len=256, lm_head="int8"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (checkpoint / "model.safetensors").stat().st_size > 250_000_000
    assert peak < 80_000_000 < largest_float32


@pytest.mark.parametrize(
    ("name", "tensor", "code"),
    [
        ("model.layers.1.mlp.up_proj.weight", None, "missing-tensor"),
        ("model.layers.0.self_attn.q_proj.bias", None, "missing-tensor"),
        ("lm_head.weight", None, "missing-tensor"),
        ("model.layers.1.mlp.up_proj.weight", torch.zeros(512, 255), "wrong-shape"),
        ("model.layers.0.self_attn.k_proj.bias", torch.zeros(127), "wrong-shape"),
        ("model.norm.weight", torch.zeros(256, 1), "wrong-shape"),
        ("model.norm.weight", torch.full((256,), float("nan")), "non-finite-weight"),
        ("model.embed_tokens.weight", torch.full((512, 256), float("inf")), "non-finite-weight"),
        ("model.layers.1.mlp.gate_proj.weight", torch.full((512, 256), float("nan")), "non-finite-weight"),
        ("model.layers.0.self_attn.q_norm.weight", torch.ones(64), "unknown-tensor"),
        ("model.layers.2.mlp.up_proj.weight", torch.ones(512, 256), "unknown-tensor"),
        ("model.layers.0.self_attn.o_proj.bias", torch.ones(256), "unknown-tensor"),
        ("model.layers.0.mlp.up_proj.weight", torch.zeros(512, 256, dtype=torch.int8), "missing-tensor"),
        ("model.layers.0.mlp.up_proj.weight", torch.zeros(512, 256, dtype=torch.int64), "unsupported-dtype"),
    ],
)
def test_a_bad_tensor_is_refused_by_name_and_nothing_is_left(
    tiny: Callable[..., Path], tmp_path: Path, name: str, tensor: torch.Tensor | None, code: str
) -> None:
    checkpoint = changed(tiny(arch="qwen2"), tmp_path / "bad", **{name: tensor})
    _expect_refusal(checkpoint, tmp_path / "engine", code, name)


@pytest.mark.parametrize(
    ("name", "tensor", "code"),
    [
        ("model.layers.0.mlp.down_proj.weight_scale", None, "missing-tensor"),
        (
            "model.layers.0.mlp.down_proj.weight_scale",
            torch.full((256, 4), float("nan")),
            "non-finite-weight",
        ),
        ("model.layers.0.mlp.down_proj.weight_scale", torch.full((256, 4), -1.0), "negative-scale"),
        ("model.layers.0.mlp.down_proj.weight_scale", torch.ones(256, 5), "wrong-shape"),
        ("model.layers.0.mlp.down_proj.weight_scale", torch.ones(256), "wrong-shape"),
        ("model.layers.0.mlp.down_proj.pre_quant_scale", torch.ones(511), "wrong-shape"),
        (
            "model.layers.0.self_attn.o_proj.pre_quant_scale",
            torch.full((256,), float("inf")),
            "non-finite-weight",
        ),
        ("model.layers.1.self_attn.k_proj.pre_quant_scale", torch.full((256,), 2.0), "unshared-input-scale"),
        ("model.layers.1.self_attn.k_proj.weight", torch.ones(128, 256), "mixed-formats"),
        ("model.embed_tokens.weight", torch.zeros(256, 256, dtype=torch.uint8), "missing-tensor"),
    ],
)
def test_a_bad_tensor_of_a_quantized_checkpoint_is_refused_by_name(
    quantized: Callable[..., Path], tmp_path: Path, name: str, tensor: torch.Tensor | None, code: str
) -> None:
    source = quantized("int4_awq", arch="qwen2", tied=False)
    checkpoint = changed(source, tmp_path / "bad", **{name: tensor})
    _expect_refusal(checkpoint, tmp_path / "engine", code, name.rpartition(".")[0])


@pytest.mark.parametrize(
    ("declared", "code", "named"),
    [
        ({"quantization": {"quant_algo": "NVFP4"}}, "unknown-quantization", "NVFP4"),
        ({"quantization": {"quant_algo": "W4A8_AWQ"}}, "unknown-quantization", "W4A8_AWQ"),
        ({"quantization": {"quant_algo": "FP8"}}, "undeclared-quantization", "int4"),
        ({}, "undeclared-quantization", "no format"),
        ("{", "json-invalid", "hf_quant_config.json"),
    ],
)
def test_a_declaration_that_does_not_fit_the_tensors_is_refused(
    quantized: Callable[..., Path], tmp_path: Path, declared: object, code: str, named: str
) -> None:
    source = quantized("int4_awq", arch="qwen2", tied=False)
    checkpoint = reconfigured(source, tmp_path / "bad", quantization_config=None)
    text = declared if isinstance(declared, str) else json.dumps(declared)
    (checkpoint / "hf_quant_config.json").write_text(text)
    _expect_refusal(checkpoint, tmp_path / "engine", code, named)


def test_a_nan_code_of_fp8_is_refused_by_name(quantized: Callable[..., Path], tmp_path: Path) -> None:
    name = "model.layers.1.self_attn.o_proj.weight"
    weight = torch.zeros(256, 256)
    weight[200, 3] = float("nan")
    source = quantized("fp8", arch="qwen2", tied=False)
    checkpoint = changed(source, tmp_path / "bad", **{name: weight.to(torch.float8_e4m3fn)})
    _expect_refusal(checkpoint, tmp_path / "engine", "non-finite-weight", name)


def test_the_quantization_of_another_tool_is_refused(tiny: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = reconfigured(
        tiny(), tmp_path / "gptq", quantization_config={"quant_method": "gptq", "bits": 4}
    )
    _expect_refusal(checkpoint, tmp_path / "engine", "unknown-quantization", "gptq")


def _expect_refusal(checkpoint: Path, out: Path, code: str, named: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        write_engine(checkpoint, out, SMALL)
    assert caught.value.code == code
    assert named in caught.value.message
    assert caught.value.hint
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "code"),
    [
        (EngineOptions(max_seq_len=513), RecipeError, "context-too-long"),
        (EngineOptions(max_seq_len=64, long_context=LongContext(2049, 4.0)), RecipeError, "context-too-long"),
        (EngineOptions(max_seq_len=64, kv_budget_bytes=1000), DoesNotFit, "kv-budget-below-one-slot"),
    ],
)
def test_an_option_that_does_not_suit_the_checkpoint_is_refused(
    tiny: Callable[..., Path],
    tmp_path: Path,
    options: EngineOptions,
    error: type[EnginewrightError],
    code: str,
) -> None:
    with pytest.raises(error) as caught:
        write_engine(tiny(), tmp_path / "engine", options)
    assert caught.value.code == code
    assert not (tmp_path / "engine").exists()


def test_a_scaled_rope_is_not_scaled_again(tiny: Callable[..., Path], tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512}
    checkpoint = tiny(arch="llama", rope_scaling=scaling)
    write_engine(checkpoint, tmp_path / "native", EngineOptions(max_seq_len=1024))
    with pytest.raises(RecipeError) as caught:
        write_engine(
            checkpoint,
            tmp_path / "engine",
            EngineOptions(max_seq_len=512, long_context=LongContext(1024, 4.0)),
        )
    assert caught.value.code == "rope-scaled-twice"


@pytest.mark.parametrize(
    "fields",
    [
        {"max_seq_len": 0},
        {"max_batch_size": -1},
        {"prefill_chunk": 0},
        {"kv_budget_bytes": 0},
        {"threads": 0},
        {"accuracy_level": 1},
        {"lm_head": "int4"},
        {"fp8_compute": "fp8"},
        {"long_context": LongContext(0, 2.0)},
        {"long_context": LongContext(8, 0.5)},
        {"long_context": LongContext(8, float("nan"))},
    ],
    ids=str,
)
def test_an_option_out_of_bounds_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        EngineOptions(**fields)
    assert next(iter(fields)) in caught.value.message
    assert caught.value.hint


def test_a_folder_with_something_in_it_is_left_alone(tiny: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("somebody's")
    with pytest.raises(UsageError) as caught:
        write_engine(tiny(), tmp_path, SMALL)
    assert caught.value.code == "output-not-empty"
    assert (tmp_path / "model.onnx").read_text() == "somebody's"


def test_a_full_disk_leaves_no_file(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk: writing fails in the middle of the weights."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from enginewright_onnx import EngineOptions, write_engine\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: write_engine(Path(sys.argv[1]), Path(sys.argv[2]), EngineOptions(max_seq_len=256))\n"
        "except OSError: sys.exit(17)\n"
    )
    out = tmp_path / "engine"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, tiny(), out], timeout=120, check=False)
    assert done.returncode == 17
    assert list(out.iterdir()) == []


def test_ignored_activation_scales_change_nothing(quantized: Callable[..., Path], tmp_path: Path) -> None:
    source = quantized("fp8", arch="qwen2", tied=False)
    without = tmp_path / "without"
    shutil.copytree(source, without)
    state = load_file(source / "model.safetensors")
    assert any(name.endswith(".input_scale") for name in state)
    kept = {name: tensor for name, tensor in state.items() if not name.endswith(".input_scale")}
    save_file(kept, without / "model.safetensors")
    write_engine(source, tmp_path / "one", SMALL)
    write_engine(without, tmp_path / "two", SMALL)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_the_engine_moves_with_its_folder(tiny: Callable[..., Path], tmp_path: Path) -> None:
    write_engine(tiny(), tmp_path / "built", SMALL)
    (tmp_path / "built").rename(tmp_path / "renamed")
    assert np.isfinite(GraphRunner(tmp_path / "renamed").step([[5, 6, 7]])).all()
