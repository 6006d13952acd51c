"""What a source checkpoint has to hold beside its config: tensors, a tokenizer, no code, no quantization."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoint_edits import Tiny, edit, refused, shard
from enginewright.checkpoint import open_checkpoint
from enginewright_model import RopeSpec
from safetensors.numpy import load_file, save_file


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


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_code_in_a_checkpoint_is_refused_and_never_imported(folder: Path, name: str) -> None:
    (folder / "modeling_evil.py").write_text("raise SystemExit('this ran')")
    edit(folder / name, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    refused(folder, "remote-code", name, "auto_map")


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
