"""Every way in which a source checkpoint can be bad is one clear error before any work starts."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enginewright.checkpoint import open_checkpoint
from enginewright.expected_tensors import expected_tensors
from enginewright_errors import CheckpointError
from enginewright_model import RopeSpec, read_model_spec
from safetensors.numpy import load_file, save_file

Tiny = Callable[..., Path]


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A private copy of a tiny Qwen2 checkpoint."""
    return Path(shutil.copytree(tiny(), tmp_path / "checkpoint"))


def refused(folder: Path, code: str, *says: str) -> CheckpointError:
    before = sorted(folder.rglob("*")) if folder.is_dir() else []
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    error = caught.value
    assert error.code == code, error.message
    for text in says:
        assert text in error.message
    assert error.hint and "\n" not in error.message
    assert (sorted(folder.rglob("*")) if folder.is_dir() else []) == before
    return error


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None removes one."""
    fields = json.loads(path.read_text())
    for name, value in changes.items():
        if value is None:
            fields.pop(name, None)
        else:
            fields[name] = value
    path.write_text(json.dumps(fields))


def shard(folder: Path) -> dict[str, str]:
    """Split model.safetensors into two shards with an index; returns the weight map."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, half in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in half}, folder / file)
        weight_map |= dict.fromkeys(half, file)
    (folder / "model.safetensors").unlink()
    write_index(folder, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def change_weights(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("arch", "tied"), [("qwen2", False), ("qwen2", True), ("llama", False), ("llama", True)]
)
def test_a_good_checkpoint_opens_with_its_dimensions(tiny: Tiny, arch: str, tied: bool) -> None:
    checkpoint = open_checkpoint(tiny(arch=arch, tied=tied))
    spec = checkpoint.spec
    assert (spec.architecture, spec.tie_word_embeddings) == (arch, tied)
    assert (spec.hidden_size, spec.intermediate_size, spec.num_layers) == (256, 512, 2)
    assert (spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.vocab_size) == (4, 2, 64, 512)
    assert spec.rope == RopeSpec("default", 1_000_000.0)
    assert checkpoint.has_chat_template
    assert checkpoint.weight_bytes == 4 * checkpoint.num_parameters
    assert [path.name for path in checkpoint.files] == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_sharded_checkpoint_is_the_same_checkpoint(folder: Path) -> None:
    whole = open_checkpoint(folder)
    shard(folder)
    split = open_checkpoint(folder)
    assert split.spec == whole.spec
    assert set(split.tensors) == set(whole.tensors)
    assert len(split.weight_files) == 2
    assert folder / "model.safetensors.index.json" in split.files


def test_a_snapshot_of_the_hub_cache_opens_although_it_is_made_of_links(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub/models--org--name/snapshots" / ("a" * 40)
    blobs = tmp_path / "hub/models--org--name/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        shutil.copy(path, blobs / f"blob-of-{path.name}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"blob-of-{path.name}")
    assert open_checkpoint(snapshot).spec == open_checkpoint(folder).spec


def test_opening_does_not_import_torch_or_transformers(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from enginewright.checkpoint import open_checkpoint;"
        f"open_checkpoint(Path({str(folder)!r}));"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'modelopt')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "checkpoint-not-found", "does not exist")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "checkpoint-not-found", "is not a folder")
    refused(tmp_path, "config-missing", "no config.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 50_000, '{"a": ' + "9" * 5000 + "}"])
def test_a_config_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, "json-invalid", "config.json")


def test_a_config_that_is_not_text_or_enormous(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    refused(folder, "json-invalid", "config.json")
    (folder / "config.json").write_text('{"a": "' + "x" * (4 << 20) + '"}')
    refused(folder, "json-invalid", "more than")


@pytest.mark.parametrize(
    "architectures",
    [None, [], "Qwen2ForCausalLM", ["MistralForCausalLM"], ["A", "B"], [["Qwen2ForCausalLM"]], 7],
)
def test_an_unknown_architecture_lists_the_known_ones(folder: Path, architectures: Any) -> None:
    edit(folder / "config.json", architectures=architectures)
    error = refused(folder, "architecture-unsupported", "architectures")
    assert "LlamaForCausalLM, Qwen2ForCausalLM" in error.hint


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_code_in_a_checkpoint_is_refused_and_never_imported(folder: Path, name: str) -> None:
    (folder / "modeling_evil.py").write_text("raise SystemExit('this ran')")
    edit(folder / name, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    refused(folder, "remote-code", name, "auto_map")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"hidden_size": "256"}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": -256}, "hidden_size"),
        ({"hidden_size": 1 << 40}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 254, "head_dim": None}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_attention_heads": 2.0}, "num_attention_heads"),
        ({"head_dim": 63}, "head_dim"),
        ({"vocab_size": None}, "vocab_size"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"model_type": "llama"}, "model_type"),
        ({"rope_theta": "1e6"}, "rope_theta"),
        ({"rope_theta": 10_000.0}, "rope_theta"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2}}, "rope_type"),
        ({"rope_scaling": {"type": "yarn"}, "rope_parameters": None}, "factor"),
        ({"rope_scaling": {"type": "yarn", "factor": "4"}, "rope_parameters": None}, "factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_a_config_field_that_cannot_be_right_is_named(
    folder: Path, changes: dict[str, Any], field: str
) -> None:
    edit(folder / "config.json", **changes)
    refused(folder, "config-invalid", "config.json", field)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "9" * 400])
def test_a_config_number_beyond_numbers(folder: Path, value: str) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"rope_theta": 1000000.0', f'"rope_theta": {value}'))
    refused(folder, "config-invalid", "rope_theta")


def test_the_rope_of_transformers_4_and_5_is_read_alike(folder: Path) -> None:
    yarn = {"factor": 4.0, "original_max_position_embeddings": 128}
    edit(folder / "config.json", rope_parameters=None, rope_scaling={"type": "yarn", **yarn})
    old = open_checkpoint(folder).spec.rope
    edit(
        folder / "config.json",
        rope_scaling=None,
        rope_theta=None,
        rope_parameters={"rope_type": "yarn", "rope_theta": 1_000_000.0, **yarn},
    )
    assert open_checkpoint(folder).spec.rope == old == RopeSpec("yarn", 1e6, **yarn)


def test_sliding_window_in_use_is_refused_and_out_of_use_is_not(folder: Path) -> None:
    config = folder / "config.json"
    edit(config, layer_types=None, use_sliding_window=True, sliding_window=64, max_window_layers=1)
    refused(folder, "sliding-window", "sliding_window = 64")
    edit(config, max_window_layers=2)  # the first two layers attend to everything, and there are two
    open_checkpoint(folder)
    edit(config, max_window_layers=1, use_sliding_window=False)
    open_checkpoint(folder)
    edit(config, layer_types=["full_attention", "sliding_attention"])
    refused(folder, "sliding-window")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "x.pth", "x.PKL", "model.gguf"])
def test_weights_in_a_format_that_can_run_code(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    error = refused(folder, "weights-not-safetensors", name)
    assert "save_pretrained" in error.hint


def test_no_weights_or_badly_named_ones(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    refused(folder, "weights-missing", "other.safetensors")
    (folder / "other.safetensors").unlink()
    refused(folder, "weights-missing")


def test_truncated_and_lying_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    refused(folder, "safetensors-invalid", "model.safetensors", "truncated")
    weights.write_bytes(b"\xff" * 8 + whole[8:])
    refused(folder, "safetensors-invalid", "model.safetensors", "limit")


def test_tensors_that_are_missing_misshapen_or_unknown(folder: Path) -> None:
    name = "model.layers.1.self_attn.k_proj.bias"
    bias = load_file(folder / "model.safetensors")[name]
    change_weights(folder, lambda tensors: tensors.pop(name))
    refused(folder, "tensor-missing", name)
    change_weights(folder, lambda tensors: tensors.update({name: np.zeros((64,), np.float32)}))
    refused(folder, "tensor-shape", name, "[64]", "[128]")
    change_weights(folder, lambda tensors: tensors.update({name: bias, "lora_A.weight": bias}))
    refused(folder, "tensor-unknown", "lora_A.weight")


def test_old_writers_buffers_and_a_tied_lm_head_are_harmless(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny(tied=True), tmp_path / "tied"))
    parameters = open_checkpoint(folder).num_parameters
    change_weights(
        folder,
        lambda tensors: tensors.update(
            {
                "lm_head.weight": tensors["model.embed_tokens.weight"].copy(),
                "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros((32,), np.float32),
            }
        ),
    )
    assert open_checkpoint(folder).num_parameters == parameters


def test_an_untied_checkpoint_needs_its_lm_head(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    refused(folder, "tensor-missing", "lm_head.weight")


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "C:x.safetensors",
     "x\0.safetensors", "..", ".", ".hidden.safetensors"],
)  # fmt: skip
def test_an_index_that_points_out_of_the_folder(folder: Path, name: str) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "model.safetensors")
    weight_map = shard(folder)
    write_index(folder, {**weight_map, "model.norm.weight": name})
    refused(folder, "shard-path", "model.safetensors.index.json")


def test_an_index_that_names_pickles(folder: Path) -> None:
    weight_map = shard(folder)
    write_index(folder, {**weight_map, "model.norm.weight": "pytorch_model.bin"})
    refused(folder, "weights-not-safetensors", "pytorch_model.bin")


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 1}, {"a": None}, "x"])
def test_an_index_that_is_none(folder: Path, weight_map: Any) -> None:
    shard(folder)
    write_index(folder, weight_map)
    refused(folder, "shard-index", "weight_map")


def test_links_that_leave_the_folder(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "config.json", "generation_config.json"):
        (folder / name).rename(outside / name)
        (folder / name).symlink_to(outside / name)
        refused(folder, "path-escapes", name)
        (folder / name).unlink()
        (outside / name).rename(folder / name)
    shard(folder)
    first = "model-00001-of-00002.safetensors"
    (folder / first).rename(outside / first)
    (folder / first).symlink_to(outside / first)
    refused(folder, "path-escapes", first)


def test_a_pipe_instead_of_weights_does_not_hang(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    refused(folder, "path-escapes", "not a regular file")


def test_a_shard_that_is_missing_or_whose_link_is_broken(folder: Path) -> None:
    shard(folder)
    second = folder / "model-00002-of-00002.safetensors"
    second.unlink()
    refused(folder, "shard-missing", second.name)
    second.symlink_to(folder / "gone")
    refused(folder, "shard-missing", second.name, "link")


def test_an_index_and_shards_that_disagree(folder: Path) -> None:
    weight_map = shard(folder)
    write_index(folder, {**weight_map, "model.norm.weight": sorted(set(weight_map.values()) - {
        weight_map["model.norm.weight"]})[0]})  # fmt: skip
    refused(folder, "shard-index", "model.norm.weight")
    write_index(folder, {**weight_map, "model.extra.weight": "model-00001-of-00002.safetensors"})
    refused(folder, "shard-index", "model.extra.weight")


def test_a_tensor_in_two_shards(folder: Path) -> None:
    shard(folder)
    first, second = (load_file(folder / f"model-0000{n}-of-00002.safetensors") for n in (1, 2))
    name = sorted(first)[0]
    save_file({**second, name: first[name]}, folder / "model-00002-of-00002.safetensors")
    refused(folder, "tensor-duplicate", name)


def test_a_missing_or_foreign_tokenizer(folder: Path) -> None:
    tokenizer = folder / "tokenizer.json"
    text = tokenizer.read_text()
    tokenizer.unlink()
    assert "save_pretrained" in refused(folder, "tokenizer-missing", "tokenizer.json").hint
    tokenizer.write_text("{}")
    refused(folder, "tokenizer-invalid", "model.vocab")
    tokenizer.write_text("{")
    refused(folder, "json-invalid", "tokenizer.json")
    fields = json.loads(text)
    fields["added_tokens"].append({**fields["added_tokens"][0], "id": 512, "content": "<|beyond|>"})
    tokenizer.write_text(json.dumps(fields))
    refused(folder, "tokenizer-invalid", "512", "vocab_size is 512")


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("generation_config.json", b'{"temperature": "hot"}', "generation-config"),
        ("generation_config.json", b'{"top_p": NaN}', "generation-config"),
        ("chat_template.jinja", b"{% if %}", "chat-template"),
        ("chat_template.jinja", b"\xe9", "tokenizer-config"),
    ],
)
def test_what_the_packaged_model_cannot_read_is_found_before_anything_is_computed(
    folder: Path, name: str, content: bytes, code: str
) -> None:
    (folder / name).write_bytes(content)
    refused(folder, code, name if code != "chat-template" else "does not parse")


def test_a_checkpoint_that_is_quantized_already(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "gptq"})
    refused(folder, "already-quantized", "quantization_config")
    edit(folder / "config.json", quantization_config=None)
    (folder / "hf_quant_config.json").write_text("{}")
    refused(folder, "already-quantized", "hf_quant_config.json")
    (folder / "hf_quant_config.json").unlink()
    name = "model.layers.0.mlp.up_proj.weight"
    change_weights(folder, lambda tensors: tensors.update({name: tensors[name].astype(np.int8)}))
    refused(folder, "already-quantized", name, "I8")


def test_a_sharded_checkpoint_of_32b_size_opens_fast(tmp_path: Path) -> None:
    """QwQ-32B's real dimensions in sparse files: only headers may be read."""
    config = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 5120,
        "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 8, "vocab_size": 152064, "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": False, "use_sliding_window": False,
        "max_window_layers": 64,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    expected = list(expected_tensors(read_model_spec(config)).items())
    weight_map = {}
    for number in range(14):
        fields, position = {}, 0
        for name, shape in expected[number::14]:
            end = position + 2 * int(np.prod(shape))
            fields[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [position, end]}
            position = end
            weight_map[name] = f"model-{number:05}.safetensors"
        raw = json.dumps(fields).encode()
        with (tmp_path / f"model-{number:05}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            file.truncate(8 + len(raw) + position)
    write_index(tmp_path, weight_map)
    started = time.perf_counter()
    checkpoint = open_checkpoint(tmp_path)
    assert time.perf_counter() - started < 2
    assert checkpoint.num_parameters == 32_763_876_352
    assert checkpoint.weight_bytes == 2 * 32_763_876_352
