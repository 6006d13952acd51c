"""From a recipe to a streamed answer: what `build-engine` packaged for TensorRT-LLM, in the real Triton, with
the stand-in where the C++ model would be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from enginewright.load_recipe import load_trtllm_recipe, parse_set
from enginewright.trtllm_recipe import trtllm_target
from enginewright_client import SamplingParams, TritonClient
from gpu_host import H100, GpuHost
from triton_repo.real_triton import running_triton
from triton_repo.trtllm_repository import replace_engines
from trtllm_builds import SETTINGS, Builds

PROMPT = "The capital of France is"


def greedy(checkpoint: Path, tokens: int) -> str:
    """The continuation that the checkpoint itself gives, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = tokenizer(PROMPT, return_tensors="pt")
    made = model.generate(**ids, max_new_tokens=tokens, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return str(tokenizer.decode(made, skip_special_tokens=True))


def test_a_recipe_becomes_a_repository_that_streams_the_checkpoints_answer(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny(
        arch="qwen2", hidden=640, intermediate=256, layers=1, heads=40, kv_heads=8, dtype="bfloat16"
    )
    host = GpuHost(tmp_path / "host")
    host.gpus(H100)
    host.builder()
    for name, value in host.environment().items():
        monkeypatch.setenv(name, value)
    build = Builds(tmp_path / "root", host)
    build(checkpoint, "quantization.format=none")
    recipe = load_trtllm_recipe(str(checkpoint), [parse_set(text) for text in SETTINGS])
    replace_engines(build.out, checkpoint, trtllm_target(recipe))
    with (
        running_triton(build.out) as (address, _),
        TritonClient(address) as client,
        client.stream(PROMPT, SamplingParams(max_tokens=8, temperature=0.0)) as answer,
    ):
        deltas = [delta.text for delta in answer]
    assert len(deltas) > 1, "an answer is streamed"
    assert "".join(deltas) == greedy(checkpoint, 8)
