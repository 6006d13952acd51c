"""Everything at once: a real tiny engine, packaged, served by TritonServer, asked through TritonClient."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from enginewright_client import InvalidRequest, SamplingParams, TritonClient
from enginewright_front.prompt import PromptEncoder, read_tokenizer
from enginewright_onnx.runtime import Engine
from enginewright_onnx.runtime import SamplingParams as EngineSampling
from enginewright_serve import TritonServer
from runtime.conftest import Traces, eventually, metric

PROMPTS = ["The capital of France is", "日本語", "In-flight", "a", "Emoji \U0001f600", "x y z", "é", "12"]
GREEDY = SamplingParams(max_tokens=32, temperature=0.0)
LONG = SamplingParams(max_tokens=4000, min_tokens=4000, temperature=0.0)


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[TritonServer]:
    with TritonServer(tiny_repository) as server:
        yield server


@pytest.fixture
def client(server: TritonServer) -> Iterator[TritonClient]:
    with TritonClient(server.grpc_address, timeout=60) as client:
        yield client


def test_eight_streams_at_once_say_what_the_engine_says_alone(
    client: TritonClient, tiny_engine: Path, tiny: Callable[..., Path]
) -> None:
    checkpoint = tiny(arch="qwen2", max_position=4096)
    tokenizer, encoder = read_tokenizer(checkpoint), PromptEncoder(checkpoint)
    with Engine.open(tiny_engine, threads=1) as alone:
        sampling = EngineSampling(max_tokens=32, temperature=0)
        expected = [
            tokenizer.decode(list(alone.generate(encoder.encode_text(prompt), sampling).token_ids))
            for prompt in PROMPTS
        ]

    def ask(prompt: str) -> str:
        return "".join(delta.text for delta in client.stream(prompt, GREEDY))

    with ThreadPoolExecutor(len(PROMPTS)) as threads:
        assert list(threads.map(ask, PROMPTS)) == expected


def test_a_chat_and_a_text_differ_by_the_template(client: TritonClient) -> None:
    chat = client.generate([{"role": "user", "content": "Hello"}], GREEDY)
    text = client.generate("Hello", GREEDY)
    assert chat.usage.input_tokens > text.usage.input_tokens
    assert text.usage.output_tokens <= 32


def test_the_engines_log_probs_come_with_their_tokens(client: TritonClient) -> None:
    sampling = SamplingParams(max_tokens=8, min_tokens=8, temperature=0.0, log_probs=True)
    answer = client.generate("Hello", sampling)
    assert len(answer.log_probs) == answer.usage.output_tokens == 8
    assert all(value <= 0 for value in answer.log_probs)


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (SamplingParams(max_tokens=0), "max_tokens"),
        (SamplingParams(max_tokens=5000), "max_tokens"),
        (SamplingParams(temperature=float("nan")), "temperature"),
        (SamplingParams(top_p=1.5), "top_p"),
        (SamplingParams(stop_words=["x"] * 1000), "stop_words"),
    ],
)
def test_a_refusal_names_its_field(client: TritonClient, sampling: SamplingParams, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.generate("Hello", sampling)
    assert caught.value.field == field
    assert caught.value.code in ("invalid-request", "sequence-too-long")


def test_stopping_ends_what_runs_within_the_exit_timeout(tiny_repository: Path, traces: Traces) -> None:
    server = TritonServer(tiny_repository, exit_timeout=1)
    server.start()
    with TritonClient(server.grpc_address, timeout=60) as client, client.stream("a", LONG) as answer:
        next(answer)
        assert traces.shared_memory()
        server.stop()
    assert traces.nothing_left()


def request_lines(server: TritonServer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]


def test_each_request_is_a_line_of_the_log_without_its_text(
    server: TritonServer, client: TritonClient
) -> None:
    secret = "the password is swordfish"
    messages = [{"role": "user", "content": secret}]
    sampling = SamplingParams(max_tokens=8, min_tokens=8, temperature=0.0, stop_words=["swordfish"])
    client.generate(messages, sampling, request_id="answered-one")
    with pytest.raises(InvalidRequest):
        client.generate(secret, SamplingParams(max_tokens=0), request_id='refused\n{"event": "forged"}')
    with client.stream(secret, LONG, request_id="left-" + "x" * 1000) as answer:
        next(answer)
    eventually(lambda: any(line["id"].startswith("left") for line in request_lines(server)), "no line")
    lines = {line["id"]: line for line in request_lines(server)}
    answered = lines["answered-one"]
    assert answered["event"] == "request"
    assert (answered["outcome"], answered["finish"], answered["cause"]) == ("completed", "length", None)
    assert (answered["prompt_tokens"] > 8, answered["output_tokens"]) == (True, 8)
    assert 0 <= answered["queue_ms"] <= answered["first_token_ms"] <= answered["total_ms"]
    refused = lines['refused\n{"event": "forged"}']
    assert (refused["outcome"], refused["cause"]) == ("refused", "invalid-request")
    assert lines["left-" + "x" * 59]["outcome"] == "cancelled"
    assert all(line["event"] == "request" for line in lines.values())
    assert "swordfish" not in server.log.read_text()
    assert not any(line["id"].startswith("probe") for line in lines.values())


def test_requests_are_logged_unless_that_is_off(tiny_repository: Path, tmp_path: Path) -> None:
    with TritonServer(tiny_repository, log=tmp_path / "log", log_requests=False) as server:
        with TritonClient(server.grpc_address, timeout=60) as client:
            client.generate("Hello", GREEDY)
        completed = 'enginewright_requests_total{outcome="completed"'
        eventually(lambda: metric(server, completed) == 1, "not counted, or the probe was")
        assert request_lines(server) == []
