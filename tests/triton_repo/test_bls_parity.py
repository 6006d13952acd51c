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
from triton_repo.real_triton import WAIT_SECONDS, WireCaller, infer_inputs, one, running_triton, text_of
from triton_repo.trtllm_repository import (
    LONG,
    NATIVE,
    stand_in_target,
    write_exact_engine,
    write_stand_in_repository,
)
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
    write_stand_in_repository(
        trtllm,
        checkpoint,
        {"native": engines / "native", "long": engines / "long"},
        target=stand_in_target(),
    )
    with (
        running_triton(onnx) as one_server,
        running_triton(trtllm) as other_server,
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


def test_answers_that_end_by_themselves_are_the_same(both: tuple[WireCaller, WireCaller]) -> None:
    """The checkpoint has two end tokens: the model keeps one to itself and sends the other, none is text."""
    reasons = []
    for seed in range(30):
        values = {"text_input": "a", "temperature": 3.0, "seed": seed, "max_tokens": 80}
        in_process, through_bls = (ended(caller, values) for caller in both)
        assert through_bls == in_process
        reasons.append(in_process[1])
    assert reasons.count(b"stop") >= 5, "too few of these seeds end by themselves"


def test_log_probs_are_the_engines(both: tuple[WireCaller, WireCaller]) -> None:
    values = {"text_input": "Hello", "max_tokens": 8, "return_log_probs": True}
    [in_process], [through_bls] = (caller.ask("llm", values) for caller in both)
    expected = in_process.as_numpy("output_log_probs")
    assert expected.shape == (1, 1, 8)
    assert through_bls.as_numpy("output_log_probs") == pytest.approx(expected, abs=1e-5)
    assert one(through_bls, "cum_log_probs") == pytest.approx(expected.sum(), abs=1e-4)


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls", "vllm_model"])
def test_the_aliases_say_the_same(both: tuple[WireCaller, WireCaller], model: str) -> None:
    values = {"text_input": GREEDY[0], "max_tokens": 24, "stream": True}
    assert ended(both[1], values, model) == ended(both[0], values)


def test_a_chat_is_rendered_by_the_checkpoints_template(both: tuple[WireCaller, WireCaller]) -> None:
    messages = json.dumps([{"role": "user", "content": "Hello"}])
    in_process, through_bls = (ended(caller, {"messages": messages, "max_tokens": 16}) for caller in both)
    assert through_bls == in_process


def test_a_stream_comes_piece_by_piece(both: tuple[WireCaller, WireCaller]) -> None:
    results = both[1].ask("llm", {"text_input": GREEDY[0], "max_tokens": 40, "stream": True})
    assert len(results) > 10


def test_eight_streams_at_once_each_get_their_own_answer(servers: dict[str, Any]) -> None:
    address = servers["trtllm"][0]
    callers = [WireCaller(address) for _ in GREEDY]
    reference = WireCaller(servers["onnx"][0])
    for caller, prompt in zip(callers, GREEDY, strict=True):
        # One request id for all: the models behind the front must not take it for theirs.
        values = {"text_input": prompt, "stream": True, "max_tokens": 48}
        caller.send("llm", values, request_id="mine")
    for caller, prompt in zip(callers, GREEDY, strict=True):
        results = [caller.next()]
        while not results[-1].get_response().parameters["triton_final_response"].bool_param:
            results.append(caller.next())
        assert text_of(results) == ended(reference, {"text_input": prompt, "max_tokens": 48})[0]
        caller.close()
    reference.close()


def requests_of(servers: dict[str, Any], model: str) -> float:
    return metric(servers["trtllm"][1], f'stand_in_requests_total{{model="{model}"')


@pytest.mark.parametrize(("beyond", "model"), [(0, "tensorrt_llm"), (1, "tensorrt_llm_long")])
def test_a_request_at_the_native_limit_goes_to_the_native_engine_and_one_beyond_to_the_long(
    servers: dict[str, Any], both: tuple[WireCaller, WireCaller], beyond: int, model: str
) -> None:
    prompt = "x" * 60
    tokens = len(PromptEncoder(servers["checkpoint"]).encode_text(prompt))
    before = requests_of(servers, model)
    values = {"text_input": prompt, "max_tokens": NATIVE - tokens + beyond}
    in_process, through_bls = (ended(caller, values) for caller in both)
    assert through_bls == in_process
    assert requests_of(servers, model) == before + 1


def test_a_long_prompt_fills_the_long_engine_to_its_limit_and_no_further(
    both: tuple[WireCaller, WireCaller],
) -> None:
    values = {"text_input": "zq" * 100, "max_tokens": LONG - 200}
    in_process, through_bls = (ended(caller, values) for caller in both)
    assert through_bls == in_process
    with pytest.raises(InferenceServerException, match=r"max_tokens is 57 after a prompt of 200 tokens"):
        both[1].ask("llm", {**values, "max_tokens": LONG - 199})


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "min_p": ({"temperature": 1.0, "min_p": 0.1}, "min_p is 0.1; TensorRT-LLM's model has no min_p"),
    "end_id": ({"end_id": 10**6}, "end_id is 1000000"),
    "top_k": ({"temperature": 1.0, "top_k": 10**6}, "top_k is 1000000"),
    "max_tokens": ({"max_tokens": 0}, "max_tokens is 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_the_engine_cannot_do_is_refused_by_name(both: tuple[WireCaller, WireCaller], case: str) -> None:
    values, expected = BAD[case]
    with pytest.raises(InferenceServerException) as caught:
        both[1].ask("llm", {"text_input": "x", "max_tokens": 4, **values})
    assert expected in caught.value.message()
    assert caught.value.message().endswith("[invalid-request]")


def test_a_plain_infer_gets_the_status_of_a_refusal(both: tuple[WireCaller, WireCaller]) -> None:
    result = both[1].client.infer("llm_unary", infer_inputs({"text_input": GREEDY[0], "max_tokens": 24}))
    assert text_of([result]) == ended(both[0], {"text_input": GREEDY[0], "max_tokens": 24})[0]
    with pytest.raises(InferenceServerException) as caught:
        both[1].client.infer("llm_unary", infer_inputs({"text_input": "x", "temperature": 1.0, "min_p": 0.5}))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "min_p" in caught.value.message()
