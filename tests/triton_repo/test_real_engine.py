"""A packaged tiny model in a real Triton: what comes over the wire is what the engine itself generates."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from enginewright_front.prompt import PromptEncoder, read_tokenizer
from enginewright_front.repository import write_repository
from enginewright_onnx import EngineOptions, write_engine
from enginewright_onnx.runtime import Engine, SamplingParams
from triton_repo.real_triton import WireCaller, one, running_triton, text_of
from tritonclient.utils import InferenceServerException

PROMPTS = [
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
def parts(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """(checkpoint, engine) of a tiny Qwen2 in exact arithmetic."""
    checkpoint, engine = tiny(arch="qwen2"), tmp_path_factory.mktemp("engine") / "engine"
    options = EngineOptions(
        max_seq_len=256, max_batch_size=4, accuracy_level=0, lm_head="fp32", fp8_compute="fp32", threads=1
    )
    write_engine(checkpoint, engine, options)
    yield checkpoint, engine


@pytest.fixture(scope="module")
def address(parts: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    repository = tmp_path_factory.mktemp("packaged")
    write_repository(repository, engine=parts[1], checkpoint=parts[0], name="tiny", max_queue=32)
    with running_triton(repository) as (grpc_address, _):
        yield grpc_address


@pytest.fixture(scope="module")
def expected(parts: tuple[Path, Path]) -> dict[str, str]:
    """The greedy text of each prompt, generated alone, without the front."""
    tokenizer, encoder = read_tokenizer(parts[0]), PromptEncoder(parts[0])
    greedy = SamplingParams(max_tokens=24, temperature=0)
    with Engine.open(parts[1], threads=1) as engine:
        ids = {prompt: engine.generate(encoder.encode_text(prompt), greedy).token_ids for prompt in PROMPTS}
    return {prompt: tokenizer.decode(list(tokens)) for prompt, tokens in ids.items()}


def test_eight_streams_at_once_say_what_the_engine_says_alone(address: str, expected: dict[str, str]) -> None:
    callers = [WireCaller(address) for _ in PROMPTS]
    for caller, prompt in zip(callers, PROMPTS, strict=True):
        caller.send("llm", {"text_input": prompt, "stream": True, "max_tokens": 24})
    for caller, prompt in zip(callers, PROMPTS, strict=True):
        results = [caller.next()]
        while not results[-1].get_response().parameters["triton_final_response"].bool_param:
            results.append(caller.next())
        assert text_of(results) == expected[prompt]
        caller.close()


@pytest.mark.parametrize("model", ["llm", "ensemble", "vllm_model"])
def test_one_response_is_the_same_text(address: str, expected: dict[str, str], model: str) -> None:
    caller = WireCaller(address)
    values = {"text_input": PROMPTS[0], "max_tokens": 24}
    [result] = caller.ask(model, values, batched=model != "vllm_model")
    assert text_of([result]) == expected[PROMPTS[0]]
    assert one(result, "num_output_tokens") <= 24
    caller.close()


def test_the_same_seed_gives_the_same_text_and_another_seed_another(address: str) -> None:
    caller = WireCaller(address)
    values = {
        "messages": json.dumps([{"role": "user", "content": "Hi"}]),
        "temperature": 1.5,
        "max_tokens": 24,
    }
    texts = [text_of(caller.ask("llm", {**values, "seed": seed})) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    caller.close()


def test_times_and_log_probs_come_from_the_engine(address: str) -> None:
    caller = WireCaller(address)
    values = {"text_input": "Hello", "max_tokens": 8, "return_log_probs": True, "return_perf_metrics": True}
    [result] = caller.ask("llm", values)
    assert result.as_numpy("output_log_probs").shape == (1, 1, one(result, "num_output_tokens"))
    assert (result.as_numpy("output_log_probs") <= 0).all()
    names = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
    times = [one(result, name) for name in names]
    assert times == sorted(times)
    assert times[0] > 0
    caller.close()


def test_drafts_are_counted_in_the_answer(address: str) -> None:
    """Random weights soon repeat themselves."""
    caller = WireCaller(address)
    values = {"text_input": "a", "max_tokens": 200, "min_tokens": 200, "return_perf_metrics": True}
    [result] = caller.ask("llm", values)
    drafted, accepted = one(result, "total_draft_tokens"), one(result, "total_accepted_draft_tokens")
    assert 0 < accepted <= drafted
    assert one(result, "acceptance_rate") == pytest.approx(accepted / drafted)
    caller.close()


def test_a_request_at_the_limit_of_the_context_is_served_and_one_beyond_refused(address: str) -> None:
    caller = WireCaller(address)
    [result] = caller.ask("llm", {"text_input": "a", "max_tokens": 255, "min_tokens": 255})
    assert one(result, "num_output_tokens") == 255
    with pytest.raises(InferenceServerException, match="max_tokens is 256 after a prompt of 1 tokens"):
        caller.ask("llm", {"text_input": "a", "max_tokens": 256})
    caller.close()
