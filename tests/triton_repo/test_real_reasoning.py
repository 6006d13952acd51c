"""A model whose template opens `<think>`, in a real Triton, in process and through BLS.

Its thinking has the tokens that were asked for; the answer is the engine's behind the closed thinking.
"""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from enginewright_front.messages import Message
from enginewright_front.prompt import PromptEncoder, read_tokenizer
from enginewright_front.repository import write_repository
from enginewright_onnx.runtime import Engine, SamplingParams
from tiny_models import CHAT_TEMPLATE
from tokenizers import AddedToken
from triton_repo.real_triton import WAIT_SECONDS, WireCaller, infer_inputs, one, running_triton, text_of
from triton_repo.thinking import wait_until
from triton_repo.trtllm_repository import (
    LONG,
    NATIVE,
    stand_in_target,
    write_exact_engine,
    write_stand_in_repository,
)
from tritonclient.utils import InferenceServerException

BUDGET, MAX_TOKENS = 12, 40
CHAT = json.dumps([{"role": "user", "content": "The capital of France is"}])
ASKED = {"messages": CHAT, "max_tokens": MAX_TOKENS, "max_reasoning_tokens": BUDGET}
LONGEST = {"messages": CHAT, "max_tokens": 200, "min_tokens": 200, "stream": True}


@pytest.fixture(scope="module")
def checkpoint(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 with QwQ's markers and the end of QwQ's template."""
    folder = tmp_path_factory.mktemp("reasoning") / "checkpoint"
    shutil.copytree(tiny(arch="qwen2"), folder)
    tokenizer = read_tokenizer(folder)
    tokenizer.add_tokens(
        [AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    template = CHAT_TEMPLATE.replace("<|im_start|>assistant\n'", "<|im_start|>assistant\n<think>\n'")
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture(scope="module")
def servers(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[str, str]]]:
    """(gRPC address, metrics address) of "onnx" and "trtllm"."""
    engines = tmp_path_factory.mktemp("engines")
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
    with running_triton(onnx) as one_server, running_triton(trtllm) as other_server:
        yield {"onnx": one_server, "trtllm": other_server}


@pytest.fixture(scope="module")
def expected(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """The ids of the whole answer to ASKED, from the engine alone."""
    encoder = PromptEncoder(checkpoint)
    prompt = encoder.encode_messages([Message("user", "The capital of France is")])
    closing = list(encoder.encode_output("</think>\n\n"))
    folder = tmp_path_factory.mktemp("alone") / "engine"
    write_exact_engine(checkpoint, folder, LONG)
    with Engine.open(folder, threads=1) as engine:

        def say(ids: list[int], tokens: int) -> list[int]:
            return list(engine.generate(ids, SamplingParams(max_tokens=tokens, temperature=0)).token_ids)

        free = say(prompt, MAX_TOKENS)
        assert len(free) > BUDGET and closing[0] not in free, "this model would not think so long"
        answer = say([*prompt, *free[:BUDGET], *closing], MAX_TOKENS - BUDGET - len(closing))
    return [*free[:BUDGET], *closing, *answer]


@pytest.fixture(params=["onnx", "trtllm"])
def server(request: pytest.FixtureRequest, servers: dict[str, tuple[str, str]]) -> tuple[str, str]:
    return servers[request.param]


@pytest.fixture
def caller(server: tuple[str, str]) -> Iterator[WireCaller]:
    made = WireCaller(server[0])
    yield made
    made.close()


def metric(server: tuple[str, str], name: str) -> float:
    text = urllib.request.urlopen(f"http://{server[1]}/metrics", timeout=WAIT_SECONDS).read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["llm", "ensemble", "vllm_model"])
def test_the_thinking_is_the_engines_then_closed_then_comes_the_answer(
    caller: WireCaller, checkpoint: Path, expected: list[int], model: str, stream: bool
) -> None:
    results = caller.ask(model, {**ASKED, "stream": stream}, batched=model != "vllm_model")
    assert text_of(results) == read_tokenizer(checkpoint).decode(expected)
    assert "</think>\n\n" in text_of(results)
    assert one(results[-1], "num_output_tokens") == len(expected)
    assert one(results[-1], "finish_reason") in (b"stop", b"length")


def test_the_plain_model_takes_the_field_too(
    servers: dict[str, tuple[str, str]], checkpoint: Path, expected: list[int]
) -> None:
    caller = WireCaller(servers["onnx"][0])
    result = caller.client.infer("llm_unary", infer_inputs(ASKED))
    assert text_of([result]) == read_tokenizer(checkpoint).decode(expected)
    caller.close()


def test_the_same_seed_gives_the_same_text(caller: WireCaller) -> None:
    sampled = {**ASKED, "min_tokens": MAX_TOKENS, "temperature": 1.5, "stream": True}
    texts = [text_of(caller.ask("llm", {**sampled, "seed": seed})) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert all("</think>\n\n" in text for text in texts)


def test_log_probs_cover_the_whole_answer(caller: WireCaller) -> None:
    [result] = caller.ask("llm", {**ASKED, "return_log_probs": True})
    logprobs = result.as_numpy("output_log_probs").reshape(-1)
    assert len(logprobs) == one(result, "num_output_tokens")
    assert (logprobs <= 0).all()
    assert np.count_nonzero(logprobs == 0) <= len("</think>\n\n")


def test_a_limit_that_cannot_be_is_refused_by_name(caller: WireCaller) -> None:
    with pytest.raises(
        InferenceServerException, match="max_reasoning_tokens is -1; the smallest allowed is 0"
    ):
        caller.ask("llm", {"messages": CHAT, "max_reasoning_tokens": -1})
    settings = json.dumps({"max_reasoning_tokens": "many"})
    with pytest.raises(InferenceServerException, match="max_reasoning_tokens is 'many'; give an integer"):
        caller.ask("llm", {"messages": CHAT, "sampling_parameters": settings})


@pytest.mark.parametrize("closed", [False, True])
def test_giving_up_in_either_phase_frees_the_slots(
    server: tuple[str, str], caller: WireCaller, closed: bool
) -> None:
    """More requests than slots: some are thinking or answering, the others wait to."""
    cancelled = 'enginewright_requests_total{outcome="cancelled"'
    before = metric(server, cancelled)
    values = {**LONGEST, "max_reasoning_tokens": 4 if closed else 190}
    for _ in range(8):
        caller.send("llm", values)
    text = text_of([caller.next()])
    while closed and "</think>" not in text:
        text += text_of([caller.next()])
    caller.client.stop_stream(cancel_requests=True)
    wait_until(lambda: metric(server, cancelled) > before)
    wait_until(lambda: metric(server, "enginewright_requests_active") == 0)
    assert metric(server, "enginewright_requests_waiting") == 0
