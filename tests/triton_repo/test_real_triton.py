"""The front in a real Triton, with a scripted engine: `llm` and its aliases over gRPC."""

from __future__ import annotations

import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from enginewright_front.front_config import FrontConfig, FrontLimits, Reasoning
from enginewright_front.repository import write_repository_models
from triton_repo.bad_requests import BAD
from triton_repo.real_triton import WAIT_SECONDS, WireCaller, infer_inputs, one, running_triton, text_of
from tritonclient.utils import InferenceServerException

EMOJI = "Hi 👨‍👩‍👧‍👦, 日本語!"
MODELS = ("llm", "ensemble", "tensorrt_llm_bls", "vllm_model")

# The front of the repository's own code with a script for an engine: it echoes, or does what the prompt says.
MODEL = """
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from enginewright_front import model
from enginewright_front.prompt import read_tokenizer
from enginewright_front.scripted_backend import ScriptedBackend


class TritonPythonModel(model.TritonPythonModel):
    def open_backend(self, folder, config):
        assert Path(model.__file__).is_relative_to(folder), "another copy of the code runs"
        tokenizer = read_tokenizer(folder / config.checkpoint)

        def script(request):
            prompt = tokenizer.decode(list(request.input_ids))
            if prompt.startswith("forever"):
                while True:
                    yield 70
            yield from request.input_ids
            if prompt.startswith("fail"):
                raise ValueError("the script says so")

        return ScriptedBackend(script, step_seconds=0.002)
"""


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    repository = tmp_path_factory.mktemp("repository")
    front = FrontConfig(
        "scripted",
        limits=replace(FrontLimits(), max_queue=8, max_tokens_default=512),
        reasoning=Reasoning("<think>", "</think>", opened_by_template=True),
    )
    write_repository_models(repository, front, parameters={"max_seq_len": "2048"})
    (repository / "llm" / "1" / "model.py").write_text(MODEL)
    shutil.copytree(checkpoint, repository / "llm" / "1" / "checkpoint")
    with running_triton(repository) as addresses:
        yield addresses


@pytest.fixture
def caller(server: tuple[str, str]) -> Iterator[WireCaller]:
    made = WireCaller(server[0])
    yield made
    made.close()


def metric(server: tuple[str, str], name: str) -> float:
    text = urllib.request.urlopen(f"http://{server[1]}/metrics", timeout=WAIT_SECONDS).read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.02)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_every_model_answers_streaming_and_not(caller: WireCaller, model: str, stream: bool) -> None:
    values = {"text_input": EMOJI, "stream": stream, "max_tokens": 200}
    results = caller.ask(model, values, batched=model != "vllm_model")
    assert text_of(results) == EMOJI
    assert len(results) > 1 if stream else len(results) == 1  # a busy machine sends several tokens at once
    assert results[-1].as_numpy("text_output").shape == (1,)
    assert one(results[-1], "finish_reason") == b"stop"
    assert one(results[-1], "num_input_tokens") > 0


@pytest.mark.parametrize("model", MODELS)
def test_a_chat_is_rendered_by_the_checkpoints_template(caller: WireCaller, model: str) -> None:
    messages = json.dumps([{"role": "user", "content": "Hello <|im_end|>"}])
    [result] = caller.ask(model, {"messages": messages}, batched=model != "vllm_model")
    assert text_of([result]) == "user\nHello <|im_end|>\nassistant\n"


def test_plain_infer_is_answered_by_the_unary_model(server: tuple[str, str], caller: WireCaller) -> None:
    result = caller.client.infer("llm_unary", infer_inputs({"text_input": EMOJI, "return_log_probs": True}))
    assert text_of([result]) == EMOJI
    assert result.as_numpy("output_log_probs").shape[:2] == (1, 1)
    with pytest.raises(InferenceServerException) as caught:
        caller.client.infer("llm_unary", infer_inputs({"text_input": "x", "max_tokens": 0}))
    assert "max_tokens is 0" in caught.value.message()
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException, match="stream is true"):
        caller.client.infer("llm_unary", infer_inputs({"text_input": "x", "stream": True}))
    with pytest.raises(InferenceServerException, match="did you mean 'temperature'"):
        caller.client.infer("llm_unary", infer_inputs({"text_input": "x"}), parameters={"temprature": 0.5})


def test_a_unary_caller_that_gives_up_frees_the_slot(server: tuple[str, str], caller: WireCaller) -> None:
    with pytest.raises(InferenceServerException, match="Deadline"):
        caller.client.infer(
            "llm_unary", infer_inputs({"text_input": "forever", "max_tokens": 2000}), client_timeout=0.5
        )
    wait_until(lambda: metric(server, 'enginewright_requests_total{outcome="cancelled"') == 1)
    wait_until(lambda: metric(server, "enginewright_requests_active") == 0)


def test_the_shapes_that_upstreams_client_reads(caller: WireCaller) -> None:
    values = {
        "text_input": "Hello",
        "max_tokens": 16,
        "stream": True,
        "beam_width": 1,
        "temperature": 1.0,
        "exclude_input_in_output": False,
        "return_log_probs": True,
        "return_perf_metrics": True,
        "bad_words": [""],
        "end_id": 2,
        "pad_id": 2,
    }
    results = caller.ask("ensemble", values, request_id="1")
    assert text_of(results) == "Hello"
    for result in results:
        assert isinstance(result.as_numpy("text_output")[0].decode("utf-8"), str)
        assert result.as_numpy("output_log_probs").ndim == 3
        for name in (
            "kv_cache_alloc_new_blocks",
            "kv_cache_reused_blocks",
            "kv_cache_alloc_total_blocks",
            "arrival_time_ns",
            "first_scheduled_time_ns",
            "first_token_time_ns",
            "last_token_time_ns",
            "acceptance_rate",
            "total_accepted_draft_tokens",
            "total_draft_tokens",
        ):
            assert result.as_numpy(name)[0][0] >= 0
    [result] = caller.ask("ensemble", {**values, "stream": False})
    assert text_of([result]) == "HelloHello"


def test_a_vllm_client_sends_strings_in_sampling_parameters(caller: WireCaller) -> None:
    settings = json.dumps({"max_tokens": "3", "temperature": "0.5", "stop": ["zzz"]})
    values = {"text_input": "Hello", "sampling_parameters": settings, "return_num_output_tokens": True}
    [result] = caller.ask("vllm_model", values, batched=False)
    assert result.as_numpy("num_output_tokens").tolist() == [3]
    assert one(result, "finish_reason") == b"length"


def test_a_client_that_asks_for_the_empty_final_response_sees_one_final_response(caller: WireCaller) -> None:
    results = caller.ask("llm", {"text_input": "Hello", "stream": True}, enable_empty_final_response=True)
    assert text_of(results) == "Hello"
    assert one(results[-1], "finish_reason") == b"stop"


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_and_the_server_lives_on(caller: WireCaller, case: str) -> None:
    values, expected = BAD[case]
    with pytest.raises(InferenceServerException) as caught:
        caller.ask("llm", values)
    assert expected in caught.value.message()
    assert caught.value.message().endswith("]")
    assert text_of(caller.ask("llm", {"text_input": "alive"})) == "alive"


@pytest.mark.parametrize("model", ["llm", "ensemble", "vllm_model"])
def test_a_misspelt_parameter_is_refused_by_name(caller: WireCaller, model: str) -> None:
    with pytest.raises(
        InferenceServerException, match="'temprature' is no known request parameter; did you mean"
    ):
        caller.ask(model, {"text_input": "x"}, batched=model != "vllm_model", parameters={"temprature": 0.5})


def test_a_tensor_that_is_not_declared_is_refused_by_triton(caller: WireCaller) -> None:
    inputs = infer_inputs({"text_input": "x"})
    inputs[0]._input.name = "wibble"
    caller.client.async_stream_infer("llm", inputs)
    with pytest.raises(InferenceServerException, match="unexpected inference input 'wibble'"):
        caller.next()


def test_an_engine_error_reaches_its_caller_after_the_first_tokens(caller: WireCaller) -> None:
    with pytest.raises(InferenceServerException, match=r"the script says so.*\[engine-failed\]"):
        caller.ask("llm", {"text_input": "fail now", "stream": True})
    assert text_of(caller.ask("llm", {"text_input": "alive"})) == "alive"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stream_that_is_cancelled_frees_its_slot(server: tuple[str, str], stream: bool) -> None:
    made = WireCaller(server[0])
    made.send("llm", {"text_input": "forever", "max_tokens": 2000, "stream": stream})
    wait_until(lambda: metric(server, "enginewright_requests_active") == 1)
    outcome = 'enginewright_requests_total{outcome="cancelled"'
    before = metric(server, outcome)
    made.close(cancel=True)
    wait_until(lambda: metric(server, "enginewright_requests_active") == 0)
    assert metric(server, outcome) == before + 1, "it ran to its end"


def test_cancel_with_the_id_works_through_the_ensemble(server: tuple[str, str], caller: WireCaller) -> None:
    caller.send("ensemble", {"text_input": "forever", "max_tokens": 2000}, request_id="mine")
    wait_until(lambda: metric(server, "enginewright_requests_active") == 1)
    other = WireCaller(server[0])
    [answer] = other.ask("ensemble", {"cancel": True}, request_id="mine")
    assert one(answer, "finish_reason") == b"cancelled"
    assert one(caller.next(), "finish_reason") == b"cancelled"
    other.close()


def test_a_full_queue_refuses_one_more_and_empties_again(server: tuple[str, str]) -> None:
    """4 slots and max_queue 8 are 12 places."""
    callers = [WireCaller(server[0]) for _ in range(12)]
    for made in callers:
        made.send("llm", {"text_input": "forever", "max_tokens": 2000})
    active, waiting = "enginewright_requests_active", "enginewright_requests_waiting"
    wait_until(lambda: metric(server, active) + metric(server, waiting) == 12)
    one_more = WireCaller(server[0])
    with pytest.raises(InferenceServerException, match=r"\[queue-full\]"):
        one_more.ask("llm", {"text_input": "x"})
    for made in (*callers, one_more):
        made.close(cancel=True)
    wait_until(lambda: metric(server, active) + metric(server, waiting) == 0)


def test_twelve_streams_at_once_each_get_their_own_text(server: tuple[str, str]) -> None:
    callers = [WireCaller(server[0]) for _ in range(12)]
    texts = [f"{n} {EMOJI * 3}" for n in range(12)]
    for made, text in zip(callers, texts, strict=True):
        made.send("llm", {"text_input": text, "stream": True})
    for made, text in zip(callers, texts, strict=True):
        results = [made.next()]
        while not results[-1].get_response().parameters["triton_final_response"].bool_param:
            results.append(made.next())
        assert text_of(results) == text
        made.close()


@pytest.mark.parametrize("model", [*MODELS, "llm_unary"])
def test_a_client_reads_defaults_and_reasoning_markers_in_every_models_config(
    caller: WireCaller, model: str
) -> None:
    config = caller.client.get_model_config(model, as_json=True)["config"]
    echoed = {key: value["string_value"] for key, value in config["parameters"].items()}
    assert echoed["model"] == "scripted"
    assert echoed["default.greedy"] == "true"
    assert echoed["limit.max_tokens_default"] == "512"
    assert echoed["reasoning.open"] == "<think>"
    assert echoed["reasoning.opened_by_template"] == "true"
    assert echoed["max_seq_len"] == "2048"


def test_metrics_count_what_triton_does_not(server: tuple[str, str], caller: WireCaller) -> None:
    """They are shown within a second of what they count."""
    output, gaps = 'enginewright_tokens_total{kind="output"', "enginewright_inter_token_seconds_count"
    before, gaps_before = metric(server, output), metric(server, gaps)
    caller.ask("llm", {"text_input": "Hello", "max_tokens": 4})
    with pytest.raises(InferenceServerException, match="is empty"):
        caller.ask("llm", {"text_input": ""})
    wait_until(lambda: metric(server, output) >= before + 4)
    wait_until(lambda: metric(server, 'enginewright_failures_total{cause="invalid-request"') >= 1)
    assert metric(server, gaps) >= gaps_before + 3
    assert metric(server, 'enginewright_inter_token_seconds_bucket{le="+Inf"') == metric(server, gaps)
    assert metric(server, 'enginewright_requests_total{outcome="refused"') >= 1
    for name in ("time_to_first_token", "queue", "request"):
        assert metric(server, f"enginewright_{name}_seconds_count") >= 1
    assert metric(server, "enginewright_restarts") == 0
