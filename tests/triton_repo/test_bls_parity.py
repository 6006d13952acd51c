"""TensorRT-LLM's rendered repository in the real Triton, an ONNX engine standing in for the C++ model: what
comes over the wire is what the same engine says in process."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginewright_front.prompt import PromptEncoder
from enginewright_front.repository import write_repository
from triton_repo.real_triton import WAIT_SECONDS, WireCaller, one, running_triton, text_of
from triton_repo.trtllm_repository import LONG, NATIVE, write_exact_engine, write_stand_in_repository
from tritonclient.utils import InferenceServerException

GREEDY = [
    "The capital of France is",
    "日本語",
    "In-flight batching lets",
    "a",
    "Emoji \U0001f600",
    "x y z",
    "é",
    "12",
]


@pytest.fixture(scope="module")
def servers(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Both repositories of one checkpoint: "onnx" and "trtllm"; (gRPC address, metrics address) of each."""
    checkpoint, engines = tiny(arch="qwen2"), tmp_path_factory.mktemp("engines")
    for name, length in (("native", NATIVE), ("long", LONG)):
        write_exact_engine(checkpoint, engines / name, length)
    onnx, trtllm = tmp_path_factory.mktemp("onnx"), tmp_path_factory.mktemp("trtllm")
    write_repository(onnx, engine=engines / "long", checkpoint=checkpoint, name="tiny", max_queue=32)
    write_stand_in_repository(trtllm, checkpoint, {"native": engines / "native", "long": engines / "long"})
    with (
        running_triton(onnx, tmp_path_factory.mktemp("server")) as one_server,
        running_triton(trtllm, tmp_path_factory.mktemp("server")) as other_server,
    ):
        yield {"onnx": one_server, "trtllm": other_server, "checkpoint": checkpoint}


@pytest.fixture
def both(servers: dict[str, Any]) -> Iterator[tuple[WireCaller, WireCaller]]:
    """(in process, through BLS)."""
    callers = WireCaller(servers["onnx"][0]), WireCaller(servers["trtllm"][0])
    yield callers
    for caller in callers:
        caller.close()


def metric(address: str, name: str) -> float:
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=WAIT_SECONDS).read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def ended(caller: WireCaller, values: dict[str, Any], model: str = "llm") -> tuple[Any, ...]:
    """What a caller sees of a finished request."""
    results = caller.ask(model, values, batched=model != "vllm_model")
    last = results[-1]
    counts = (one(last, "num_input_tokens"), one(last, "num_output_tokens"))
    return text_of(results), one(last, "finish_reason"), counts


REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {"max_tokens": 24},
    "stream": {"max_tokens": 24, "stream": True},
    "top_k 1": {"max_tokens": 24, "top_k": 1, "temperature": 0.7},
    "seeded": {"max_tokens": 24, "temperature": 1.2, "seed": 7},
    "top_k, top_p": {"max_tokens": 24, "temperature": 1.2, "top_k": 20, "top_p": 0.9, "seed": 8},
    "penalties": {
        "max_tokens": 24,
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
    },
    "min_tokens": {"max_tokens": 24, "min_tokens": 24, "temperature": 2.0, "seed": 3},
    "bad words": {"max_tokens": 24, "bad_words": ["e", "the", " a"]},
    "end_id": {"max_tokens": 64, "end_id": 70, "temperature": 3.0, "seed": 5},
}


@pytest.mark.parametrize("case", REQUESTS)
@pytest.mark.parametrize("prompt", GREEDY[:3])
def test_the_same_request_gives_the_same_answer(
    both: tuple[WireCaller, WireCaller], case: str, prompt: str
) -> None:
    in_process, through_bls = (ended(caller, {"text_input": prompt, **REQUESTS[case]}) for caller in both)
    assert through_bls == in_process


def test_a_stop_word_ends_the_answer_at_the_same_place(both: tuple[WireCaller, WireCaller]) -> None:
    whole = ended(both[0], {"text_input": GREEDY[0], "max_tokens": 40})[0]
    values = {"text_input": GREEDY[0], "max_tokens": 40, "stop_words": [whole[10:13]]}
    in_process, through_bls = (ended(caller, values) for caller in both)
    assert through_bls == in_process
    assert through_bls[:2] == (whole[: whole.index(whole[10:13])], b"stop")
