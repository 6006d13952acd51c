"""Bytes on the wire: what cannot be carried is refused by name, what cannot be read is an error of ours."""

from __future__ import annotations

import math
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from enginewright_client import EngineError, InvalidRequest, SamplingParams
from enginewright_client._answer import AnswerReader
from enginewright_client._dialect import ENGINEWRIGHT
from enginewright_client._model_config import decode_model_config
from enginewright_client._wire import encode_request
from enginewright_front.pbtxt import render_configs
from google.protobuf import text_format
from hypothesis import example, given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb

LLM = decode_model_config(text_format.Parse(render_configs({})["llm"], pb.ModelConfig()))


def encoded(prompt: Any = "x", **sampling: Any) -> dict[str, bytes]:
    request = encode_request(LLM, ENGINEWRIGHT, "id", prompt, SamplingParams(**sampling), stream=True)
    names = [tensor.name for tensor in request.inputs]
    return dict(zip(names, request.raw_input_contents, strict=True))


@given(st.text())
def test_a_text_is_carried_or_refused(text: str) -> None:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        with pytest.raises(InvalidRequest) as caught:
            encoded(text)
        assert caught.value.field == "text_input"
    else:
        assert encoded(text)["text_input"] == struct.pack("<I", len(data)) + data


@given(
    st.sampled_from(["max_tokens", "min_tokens", "top_k", "seed"]),
    st.one_of(st.integers(), st.booleans(), st.floats(), st.text()),
)
@example("top_k", 0.0)
@example("top_k", False)
def test_an_integer_is_carried_exactly_or_refused(name: str, value: Any) -> None:
    layout, low, high = ("<Q", 0, 2**64 - 1) if name == "seed" else ("<i", -(2**31), 2**31 - 1)
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        assert struct.unpack(layout, encoded(**{name: value})[name]) == (value,)
    else:
        with pytest.raises(InvalidRequest) as caught:
            encoded(**{name: value})
        assert caught.value.field == name
        assert caught.value.message.startswith(name)


@given(st.one_of(st.floats(), st.integers(), st.booleans(), st.text()))
@example(10**400)
def test_a_number_is_carried_to_32_bits_or_refused(value: Any) -> None:
    try:
        [carried] = struct.unpack("<f", encoded(temperature=value)["temperature"])
    except InvalidRequest as error:
        assert error.field == "temperature"
        wrong_type = isinstance(value, bool) or not isinstance(value, (int, float))
        assert wrong_type or abs(value) > 3.4e38
    else:
        same = math.isclose(carried, value, rel_tol=1e-6, abs_tol=1e-44)
        assert same or (math.isnan(carried) and math.isnan(value))


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"stop_words": "one text"}, "stop_words"),
        ({"stop_words": ["a", 1]}, "stop_words"),
        ({"bad_words": ["\ud800"]}, "bad_words"),
        ({"log_probs": 1}, "log_probs"),
    ],
)
def test_what_is_not_of_its_type_is_refused(sampling: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encoded(**sampling)
    assert caught.value.field == field


@pytest.mark.parametrize("request_id", ["\ud800", 5])
def test_a_request_id_that_is_no_text_is_refused(request_id: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encode_request(LLM, ENGINEWRIGHT, request_id, "x", SamplingParams(), stream=True)
    assert caught.value.field == "request_id"


@pytest.mark.parametrize("messages", [[1], [{"role": object()}], [{"content": "\udfff"}]])
def test_messages_that_are_none_are_refused(messages: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encoded(messages)
    assert caught.value.field == "messages"


OUTPUTS = ("text_output", "finish_reason", "num_input_tokens", "num_output_tokens", "output_log_probs")


@given(st.dictionaries(st.sampled_from(OUTPUTS), st.binary(max_size=16)))
def test_any_bytes_are_a_delta_or_an_error_of_ours(tensors: dict[str, bytes]) -> None:
    response = SimpleNamespace(
        model_name="llm",
        outputs=[SimpleNamespace(name=name) for name in tensors],
        raw_output_contents=list(tensors.values()),
    )
    try:
        reader = AnswerReader(ENGINEWRIGHT, request_id="id", tells_reason=True, max_tokens=None)
        delta = reader.read(response)
    except EngineError as error:
        assert error.code in ("bad-response", "engine-error")
        assert error.request_id == "id"
    else:
        assert isinstance(delta.text, str)
        assert delta.usage is None or delta.finish_reason is not None
