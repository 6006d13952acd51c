"""The models of other servers: found by their tensors, asked in their words, read in ours."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginewright_client import (
    AsyncTritonClient,
    InvalidRequest,
    ModelConfig,
    SamplingParams,
    TritonClient,
    UnsupportedModel,
    Usage,
)
from enginewright_client._dialect import choose_dialect
from enginewright_client._model_config import decode_model_config
from enginewright_front.repository import write_repository
from enginewright_onnx import EngineOptions, write_engine
from enginewright_serve import TritonServer
from google.protobuf import text_format
from package_manifest import write_manifest
from runtime.upstream_configs import upstream_config
from tritonclient.grpc import model_config_pb2 as pb

UPSTREAM = {
    "trtllm": ("ensemble", {}),
    "trtllm_whole": ("ensemble", {"accumulate_tokens": "true"}),
    "trtllm_at_once": ("ensemble", {"decoupled": False}),
    "llmapi": ("llmapi", {}),
    "llmapi_at_once": ("llmapi", {"decoupled": False}),
    "vllm": ("vllm", {}),
}
COUNTED = {"trtllm", "trtllm_whole", "trtllm_at_once", "vllm"}
AT_ONCE = {"trtllm_at_once", "llmapi_at_once"}
EVERYTHING = SamplingParams(
    max_tokens=64,
    temperature=0.5,
    top_k=0,
    top_p=0.25,
    presence_penalty=-0.5,
    frequency_penalty=0.75,
    seed=2**64 - 1,
    stop_words=("stop", "日本"),
)


@pytest.fixture(scope="module")
def upstream(fake_repository: Callable[..., Path]) -> Iterator[TritonServer]:
    """A real Triton with a stand-in of each of upstream's models, beside `llm`."""
    repository = fake_repository()
    for name, (kind, settings) in UPSTREAM.items():
        version = repository / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(Path(__file__).with_name("fake_upstream.py"), version / "model.py")
        (repository / name / "config.pbtxt").write_text(upstream_config(kind, name, **settings))
    write_manifest(repository)
    with TritonServer(repository) as server:
        yield server


@pytest.mark.parametrize("model", UPSTREAM)
def test_text_goes_in_and_comes_out(upstream: TritonServer, model: str) -> None:
    text = "one 👩‍🚀 日本語 four"
    sampling = SamplingParams(max_tokens=50)

    async def ask() -> str:
        async with AsyncTritonClient(upstream.grpc_address, model=model) as client:
            return (await client.generate(text, sampling)).text

    with TritonClient(upstream.grpc_address, model=model) as client:
        whole = client.generate(text, sampling)
        deltas = list(client.stream(text, sampling))
        assert client.health().generates
    assert whole.text == "".join(delta.text for delta in deltas) == asyncio.run(ask()) == text + " "
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
    assert (len(deltas) == 1) == (model in AT_ONCE), "deltas where the model can send them"
    expected = Usage(3, 4) if model in COUNTED else None
    assert whole.usage == deltas[-1].usage == expected


@pytest.mark.parametrize("model", UPSTREAM)
def test_a_limit_that_is_reached_is_told(upstream: TritonServer, model: str) -> None:
    with TritonClient(upstream.grpc_address, model=model) as client:
        answer = client.generate("one two three four", SamplingParams(max_tokens=2))
    assert (answer.text, answer.finish_reason) == ("one two ", "length")


SETTINGS: dict[str, dict[str, Any]] = {
    "trtllm": {
        "max_tokens": [64],
        "temperature": [0.5],
        "top_k": [0],
        "top_p": [0.25],
        "presence_penalty": [-0.5],
        "frequency_penalty": [0.75],
        "seed": [2**64 - 1],
        "stop_words": ["stop", "日本"],
        "stream": [True],
        "exclude_input_in_output": [True],
        "return_num_input_tokens": [True],
        "return_num_output_tokens": [True],
    },
    "llmapi": {
        "sampling_param_max_tokens": [64],
        "sampling_param_temperature": [0.5],
        "sampling_param_top_k": [0],
        "sampling_param_top_p": [0.25],
        "sampling_param_presence_penalty": [-0.5],
        "sampling_param_frequency_penalty": [0.75],
        "sampling_param_seed": [2**64 - 1],
        "sampling_param_stop": ["stop", "日本"],
        "streaming": [True],
        "sampling_param_exclude_input_from_output": [True],
        "return_finish_reason": [True],
    },
    "vllm": {
        "sampling_parameters": {
            "max_tokens": 64,
            "temperature": 0.5,
            "top_k": -1,
            "top_p": 0.25,
            "presence_penalty": -0.5,
            "frequency_penalty": 0.75,
            "seed": 2**64 - 1,
            "stop": ["stop", "日本"],
        },
        "stream": [True],
        "exclude_input_in_output": [True],
        "return_finish_reason": [True],
        "return_num_input_tokens": [True],
        "return_num_output_tokens": [True],
    },
}


def shown(server: TritonServer, model: str, sampling: SamplingParams) -> dict[str, Any]:
    """The inputs that a model got."""
    with TritonClient(server.grpc_address, model=model) as client:
        inputs: dict[str, Any] = json.loads(client.generate("show", sampling).text)
    assert inputs.pop("text_input") == ["show"]
    if "sampling_parameters" in inputs:
        inputs["sampling_parameters"] = json.loads(inputs["sampling_parameters"][0])
    return inputs


@pytest.mark.parametrize("model", SETTINGS)
def test_settings_arrive_under_the_models_names(upstream: TritonServer, model: str) -> None:
    sampling = EVERYTHING
    assert shown(upstream, model, sampling) == SETTINGS[model]


@pytest.mark.parametrize("model", SETTINGS)
def test_greedy_is_said_in_a_way_that_the_model_takes(upstream: TritonServer, model: str) -> None:
    inputs = shown(upstream, model, SamplingParams(max_tokens=64, temperature=0))
    if model == "vllm":
        assert inputs["sampling_parameters"] == {"max_tokens": 64, "temperature": 0}
    else:
        name = "sampling_param_top_k" if model == "llmapi" else "top_k"
        assert inputs[name] == [1]
        assert not any("temperature" in given for given in inputs)


@pytest.mark.parametrize(
    ("model", "sampling", "field"),
    [
        ("trtllm", SamplingParams(), "max_tokens"),  # Triton lets an ensemble without it hang for ever
        ("trtllm", SamplingParams(max_tokens=5, min_p=0.1), "min_p"),
        ("llmapi", SamplingParams(min_tokens=5), "min_tokens"),
        ("llmapi", SamplingParams(bad_words=["a"]), "bad_words"),
        ("llmapi", SamplingParams(log_probs=True), "log_probs"),
        ("vllm", SamplingParams(log_probs=True), "log_probs"),
        ("vllm", SamplingParams(max_tokens=2**31), "max_tokens"),
        ("vllm", SamplingParams(temperature="hot"), "temperature"),  # type: ignore[arg-type]
    ],
)
def test_what_a_model_does_not_take_is_refused_by_name(
    upstream: TritonServer, model: str, sampling: SamplingParams, field: str
) -> None:
    client = TritonClient(upstream.grpc_address, model=model)
    with client, pytest.raises(InvalidRequest) as caught:
        client.generate("a", sampling)
    assert caught.value.field == field


@pytest.mark.parametrize("model", SETTINGS)
def test_a_chat_needs_a_model_with_a_template(upstream: TritonServer, model: str) -> None:
    client = TritonClient(upstream.grpc_address, model=model)
    with client, pytest.raises(InvalidRequest, match=model) as caught:
        client.chat([{"role": "user", "content": "a"}], SamplingParams(max_tokens=5))
    assert caught.value.field == "messages"
    assert "template" in caught.value.hint


def test_every_model_is_listed(upstream: TritonServer) -> None:
    async def ask() -> list[str]:
        async with AsyncTritonClient(upstream.grpc_address) as client:
            return [model.name for model in await client.models() if model.ready]

    with TritonClient(upstream.grpc_address) as client:
        names = [model.name for model in client.models() if model.ready]
    assert names == asyncio.run(ask()) == sorted([*UPSTREAM, "llm"])


def parsed(text: str) -> ModelConfig:
    return decode_model_config(text_format.Parse(text, pb.ModelConfig()))


@pytest.mark.parametrize(
    ("text", "found", "hint"),
    [
        (upstream_config("tokens", "tensorrt_llm"), "input_ids", "ensemble"),
        ('name: "resnet" input { name: "image" data_type: TYPE_FP32 dims: 3 }', "image", "text_input"),
        ('name: "empty"', "none", "text_input"),
    ],
)
def test_a_model_of_no_text_is_described(text: str, found: str, hint: str) -> None:
    with pytest.raises(UnsupportedModel, match=found) as caught:
        choose_dialect(parsed(text))
    assert hint in caught.value.hint
    assert caught.value.field == "model"


@pytest.fixture(scope="module")
def packaged(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A real engine behind every name that a packaged repository has."""
    checkpoint = tiny(arch="qwen2", max_position=512)
    folder = tmp_path_factory.mktemp("packaged")
    engine = folder / "engine"
    options = EngineOptions(
        max_seq_len=512, max_batch_size=4, accuracy_level=0, lm_head="fp32", fp8_compute="fp32", threads=1
    )
    write_engine(checkpoint, engine, options)
    repository = folder / "repository"
    repository.mkdir()
    write_repository(repository, engine=engine, checkpoint=checkpoint, name="tiny")
    write_manifest(repository)
    with TritonServer(repository) as server:
        yield server


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls", "vllm_model", "llm_unary"])
def test_every_alias_of_a_packaged_model_answers_as_llm(packaged: TritonServer, model: str) -> None:
    sampling = SamplingParams(max_tokens=16, min_tokens=16, temperature=0, top_k=1, seed=7, min_p=0.0)
    chat = [{"role": "user", "content": "Hello"}]
    with (
        TritonClient(packaged.grpc_address, timeout=60) as llm,
        TritonClient(packaged.grpc_address, model=model, timeout=60) as alias,
    ):
        expected, answer = llm.generate("Hello", sampling), alias.generate("Hello", sampling)
        deltas = list(alias.stream("Hello", sampling))
        assert alias.chat(chat, sampling).content == llm.chat(chat, sampling).content
    assert (answer.text, answer.usage) == (expected.text, expected.usage)
    assert "".join(delta.text for delta in deltas) == expected.text
    assert (deltas[-1].finish_reason, deltas[-1].usage) == ("length", expected.usage)
