"""TritonClient against a real Triton: answers, typed errors, and a cancellation for what is not read."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from enginewright_client import (
    ConnectError,
    EngineError,
    InvalidRequest,
    ModelNotFound,
    RequestCancelled,
    RequestError,
    RequestTimeout,
    SamplingParams,
    ServerOverloaded,
    TensorSpec,
    TritonClient,
)
from enginewright_serve import TritonServer
from enginewright_serve.ports import choose_ports
from runtime.conftest import eventually

ENDLESS = "count 100000 5"


def cancelled(client: TritonClient) -> int:
    """How many requests the model saw cancelled."""
    return int(client.generate("report").text.split("cancelled=")[1])


def test_an_answer_has_text_reason_usage_and_id(client: TritonClient) -> None:
    answer = client.generate("one two three", request_id="mine")
    assert answer.text == "one two three "
    assert answer.finish_reason == "stop"
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, 3)
    assert answer.request_id == "mine"
    assert client.generate("a").request_id != client.generate("a").request_id


def test_a_stream_joined_is_the_answer(client: TritonClient) -> None:
    text = "Hi 👩‍🚀, 日本語 " * 20
    with client.stream(text) as answer:
        deltas = list(answer)
    assert len(deltas) > 20
    assert "".join(delta.text for delta in deltas) == client.generate(text).text == text + " "
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["stop"]
    assert answer.usage == deltas[-1].usage
    assert list(answer) == []


def test_a_chat_is_sent_as_messages(client: TritonClient) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "show"}]
    assert json.loads(json.loads(client.generate(messages).text)["messages"]) == messages


def test_every_parameter_reaches_the_model_as_it_is(client: TritonClient) -> None:
    sampling = SamplingParams(
        max_tokens=2**31 - 1,
        min_tokens=1,
        temperature=0.5,
        top_k=40,
        top_p=0.25,
        min_p=0.125,
        repetition_penalty=1.5,
        presence_penalty=-0.5,
        frequency_penalty=0.75,
        seed=2**64 - 1,
        stop_words=("<stop>",),
        bad_words=("bad",),
        log_probs=True,
    )
    assert json.loads(client.generate("show", sampling).text) == {
        "text_input": "show",
        "stream": True,
        "max_tokens": 2**31 - 1,
        "min_tokens": 1,
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.25,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.75,
        "seed": 2**64 - 1,
        "stop_words": "<stop>",
        "bad_words": "bad",
        "return_log_probs": True,
    }
    assert json.loads(client.generate("show").text).keys() == {"text_input", "stream"}


def test_a_large_prompt_comes_back_whole(client: TritonClient) -> None:
    text = "x" * 5_000_000
    assert client.generate(text).text == text + " "


def test_threads_share_a_client(client: TritonClient) -> None:
    def ask(number: int) -> str:
        return "".join(delta.text for delta in client.stream(f"count {number} 1"))

    with ThreadPoolExecutor(16) as threads:
        texts = list(threads.map(ask, range(1, 65)))
    assert texts == ["".join(f"{n} " for n in range(count)) for count in range(1, 65)]


@pytest.mark.parametrize("how", ["close", "with", "drop", "exception"])
def test_an_answer_that_is_left_is_cancelled_on_the_server(client: TritonClient, how: str) -> None:
    before = cancelled(client)
    answer = client.stream(ENDLESS)
    next(answer)
    if how == "close":
        answer.close()
        assert list(answer) == []
    elif how == "with":
        with answer:
            next(answer)
    elif how == "drop":
        del answer
    else:
        with pytest.raises(KeyError), answer:
            raise KeyError
    eventually(lambda: cancelled(client) == before + 1, "the request ran on")


def test_closing_the_client_cancels_its_requests(fake_server: TritonServer, client: TritonClient) -> None:
    before = cancelled(client)
    other = TritonClient(fake_server.grpc_address)
    answers = [other.stream(ENDLESS) for _ in range(4)]
    for answer in answers:
        next(answer)
    other.close()
    eventually(lambda: cancelled(client) == before + 4, "requests ran on")
    for answer in answers:
        with pytest.raises(RequestError):
            list(answer)


def test_close_from_another_thread_ends_the_waiting_one(client: TritonClient) -> None:
    answer = client.stream("wait 600000")

    def close() -> None:
        eventually(lambda: answer._attempt.call._reading.locked(), "nobody reads")  # type: ignore[union-attr]
        answer.close()

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(RequestCancelled) as caught:
        list(answer)
    closer.join()
    assert caught.value.request_id == answer.request_id


def test_a_closed_client_says_so(fake_server: TritonServer) -> None:
    for used in (True, False):
        with TritonClient(fake_server.grpc_address) as client:
            if used:
                client.generate("count 1 1")
        with pytest.raises(RuntimeError, match="the client is closed"):
            client.generate("count 1 1")


@pytest.mark.parametrize("stream", [False, True])
def test_time_that_is_over_cancels_the_request(client: TritonClient, stream: bool) -> None:
    before = cancelled(client)
    ask: Callable[..., object] = (lambda *a, **k: list(client.stream(*a, **k))) if stream else client.generate
    with pytest.raises(RequestTimeout, match=r"within 0\.2 s"):
        ask(ENDLESS, timeout=0.2)
    eventually(lambda: cancelled(client) == before + 1, "the request ran on")


def test_the_clients_timeout_is_the_default(fake_server: TritonServer) -> None:
    with TritonClient(fake_server.grpc_address, timeout=0.2) as client:
        with pytest.raises(RequestTimeout):
            client.generate(ENDLESS)
        assert client.generate("count 3 100", timeout=30).finish_reason == "stop"


ERRORS: dict[str, tuple[type[RequestError], str, str | None]] = {
    "fail top_k is -1; 0 or more [invalid-request]": (InvalidRequest, "invalid-request", "top_k"),
    "fail text_input has 99 tokens; fewer [sequence-too-long]": (
        InvalidRequest,
        "sequence-too-long",
        "text_input",
    ),
    "fail 256 requests are running; try later [queue-full]": (ServerOverloaded, "queue-full", None),
    "fail the engine made no step [engine-stalled]": (ServerOverloaded, "engine-stalled", None),
    "fail it ran 60 s; ask for less [request-time-limit]": (RequestTimeout, "request-time-limit", None),
    "fail out of memory [engine-failed]": (EngineError, "engine-failed", None),
    "fail nobody knows": (EngineError, "engine-error", None),
    "break": (EngineError, "engine-broken", None),
    "vanish": (EngineError, "incomplete-answer", None),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ERRORS)
def test_a_failure_is_an_error_of_its_kind(client: TritonClient, prompt: str, stream: bool) -> None:
    kind, code, field = ERRORS[prompt]
    with pytest.raises(kind) as caught:
        if stream:
            list(client.stream(prompt, request_id="mine"))
        else:
            client.generate(prompt, request_id="mine")
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert caught.value.request_id == "mine"
    assert getattr(caught.value, "field", None) == field
    assert f"[{code}]" not in caught.value.message
    assert client.generate("alive").text == "alive "


def test_a_token_before_the_failure_is_delivered(client: TritonClient) -> None:
    answer = client.stream("break")
    assert next(answer).text == "a"
    with pytest.raises(EngineError):
        next(answer)


def test_an_error_without_an_end_is_raised_all_the_same(client: TritonClient) -> None:
    before = cancelled(client)
    with pytest.raises(EngineError, match="stuck"):
        client.generate("stick", timeout=60)
    eventually(lambda: cancelled(client) == before + 1, "the request ran on")


def test_a_model_that_is_not_served_is_named(fake_server: TritonServer) -> None:
    with TritonClient(fake_server.grpc_address, model="nope") as client:
        with pytest.raises(ModelNotFound, match="'nope'"):
            client.generate("a")
        with pytest.raises(ModelNotFound):
            client.model_config()
        assert not client.health().generates


def test_an_input_that_the_server_does_not_take_is_named(client: TritonClient) -> None:
    """As after a server was replaced behind the client's back."""
    config = client.model_config()
    wrong = TensorSpec("max_tokens", "INT64", (1,), optional=True)
    client._config = replace(config, inputs={**config.inputs, wrong.name: wrong})
    with pytest.raises(InvalidRequest) as caught:
        client.generate("a", SamplingParams(max_tokens=5))
    assert (caught.value.field, caught.value.code) == ("max_tokens", "invalid-request")


@pytest.mark.parametrize(
    "address",
    [
        *("", "localhost", ":8001", "localhost:", "localhost:0", "localhost:65536", "localhost:http"),
        *("http://localhost:8001", "localhost:8001/", "a b:1", "::1:8001", "[::1]"),
    ],
)
def test_an_address_that_is_none_is_refused_before_anything_is_sent(address: str) -> None:
    with pytest.raises(InvalidRequest, match="the server's address is") as caught:
        TritonClient(address)
    assert caught.value.field == "address"


@pytest.mark.parametrize(
    "address", ["h:1", "a-b.c:65535", "[::1]:8001", "unix:/run/x.sock", "dns:///h:1", "ipv4:127.0.0.1:1"]
)
def test_every_address_that_grpc_can_reach_is_taken(address: str) -> None:
    with TritonClient(address) as client:
        assert client.address == address


def test_without_a_server_there_is_a_connect_error_at_once(client: TritonClient) -> None:
    [port] = choose_ports("127.0.0.1", {"--grpc-port": None})
    with TritonClient(f"127.0.0.1:{port}") as nobody:
        for _ in range(2):
            with pytest.raises(ConnectError, match="Connection refused") as caught:
                nobody.generate("a", timeout=30)
            assert "enginewright serve" in caught.value.hint
        health = nobody.health()
        assert (health.ready, health.generates) == (False, False)
        assert "Connection refused" in health.problem


def test_a_client_made_before_its_server_works_when_it_is_up(fake_repository: Callable[..., object]) -> None:
    ports = dict(zip(("grpc_port", "metrics_port"), choose_ports("", {"a": None, "b": None}), strict=True))
    with TritonClient(f"127.0.0.1:{ports['grpc_port']}") as client:
        with pytest.raises(ConnectError):
            client.generate("a")
        for _ in range(2):  # and after a restart
            with TritonServer(fake_repository(), **ports) as server:
                eventually(lambda: client.health().generates, "it never connected")
                server.stop(kill=True)
            with pytest.raises(ConnectError):
                client.generate("a")


def test_a_dead_model_process_is_not_healthy_whatever_the_server_says(
    fake_repository: Callable[..., object],
) -> None:
    with TritonServer(fake_repository()) as server, TritonClient(server.grpc_address) as client:
        assert client.health().generates
        with pytest.raises(RequestError):
            client.generate("die", timeout=2)
        health = client.health(timeout=2)
        assert not health.generates
        assert health.problem
        server.stop(kill=True)


def test_the_config_tells_limits_defaults_and_markers(client: TritonClient) -> None:
    config = client.model_config()
    assert (config.name, config.max_seq_len) == ("llm", 2048)
    assert config.defaults == {"temperature": 0.5}
    assert config.reasoning == {"open": "<think>"}


def test_importing_the_client_takes_no_time() -> None:
    program = (
        "import time; start = time.process_time(); import enginewright_client; "
        "import sys; assert 'grpc' not in sys.modules; print(time.process_time() - start)"
    )
    times = [float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(3)]
    assert min(times) < 0.5
