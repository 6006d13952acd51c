"""A request that cannot be right is refused by field, value and bound; a right one is understood."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enginewright_front.backend import EngineLimits
from enginewright_front.front_config import FrontConfig, FrontLimits, SamplingDefaults
from enginewright_front.preparation import Preparation, PreparedRequest
from enginewright_front.prompt import PromptEncoder
from enginewright_front.refusal import INVALID_ARG, InvalidRequest, status_of, wire_message
from enginewright_front.request import GenerateRequest, parse_request
from enginewright_front.wire import INPUT
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_repo.bad_requests import GRAMMARS
from triton_repo.front_under_test import wire_tensors

QWQ = SamplingDefaults(greedy=False, temperature=0.6, top_k=40, top_p=0.95)
CHAT = '[{"role": "user", "content": "Hi"}]'


def parse(defaults: SamplingDefaults = QWQ, parameters: object = None, **values: Any) -> GenerateRequest:
    text = parameters if isinstance(parameters, str) else json.dumps(parameters) if parameters else ""
    return parse_request(wire_tensors(values), text, limits=FrontLimits(), defaults=defaults)


def refusal(**values: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse(**values)
    message = wire_message(caught.value)
    assert status_of(message) == INVALID_ARG
    assert "\n" not in message
    return message


BAD = {
    "empty prompt": ({"text_input": ""}, "text_input is empty"),
    "empty messages": ({"messages": ""}, "messages is empty"),
    "neither prompt": ({"max_tokens": 1}, "text_input and messages are both missing"),
    "both prompts": ({"text_input": "x", "messages": CHAT}, "text_input and messages are both given"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens is 0; the smallest allowed is 1"),
    "max_tokens negative": ({"max_tokens": -5}, "max_tokens is -5"),
    "min_tokens negative": ({"min_tokens": -1}, "min_tokens is -1"),
    "max_reasoning_tokens negative": (
        {"max_reasoning_tokens": -1},
        "max_reasoning_tokens is -1; the smallest allowed is 0",
    ),
    "max_reasoning_tokens no integer": (
        {"text_input": "x", "sampling_parameters": '{"max_reasoning_tokens": 1.5}'},
        "max_reasoning_tokens is 1.5; give an integer",
    ),
    "temperature NaN": ({"temperature": float("nan")}, "temperature is nan"),
    "temperature inf": ({"temperature": float("inf")}, "temperature is inf"),
    "temperature negative": ({"temperature": -0.1}, "temperature is -0.1; the smallest allowed is 0"),
    "temperature huge": ({"temperature": 1e9}, "the largest allowed is 100"),
    "top_p 0": ({"top_p": 0.0}, "top_p is 0"),
    "top_p over 1": ({"top_p": 1.5}, "top_p is 1.5; the largest allowed is 1"),
    "top_p NaN": ({"top_p": float("nan")}, "top_p is nan"),
    "min_p negative": ({"min_p": -0.5}, "min_p is -0.5"),
    "top_k negative": ({"top_k": -1}, "top_k is -1; the smallest allowed is 0"),
    "repetition_penalty 0": ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
    "repetition_penalty negative": ({"repetition_penalty": -1.0}, "repetition_penalty is -1"),
    "presence_penalty inf": ({"presence_penalty": float("-inf")}, "presence_penalty is -inf"),
    "frequency_penalty huge": (
        {"frequency_penalty": 3.0},
        "frequency_penalty is 3; the largest allowed is 2",
    ),
    "beams": ({"beam_width": 4}, "beam_width is 4; the largest allowed is 1"),
    "several sequences": ({"num_return_sequences": 2}, "num_return_sequences is 2"),
    "length_penalty": ({"length_penalty": 0.5}, "length_penalty is 0.5"),
    "end_id negative": ({"end_id": -1}, "end_id is -1"),
    "10,000 stop words": ({"stop_words": ["x"] * 10_000}, "stop_words has 10000 words; at most 64"),
    "10,000 bad words": ({"bad_words": ["x"] * 10_000}, "bad_words has 10000 words; at most 64"),
    "long stop word": ({"stop_words": ["x" * 257]}, "stop_words has a word of 257 bytes; at most 256"),
    "invalid UTF-8": ({"text_input": b"a\xff\xfe"}, "text_input is not UTF-8: byte 0xff at offset 1"),
    "UTF-8 of a surrogate": ({"text_input": b"\xed\xa0\x80"}, "text_input is not UTF-8"),
    "NUL": ({"text_input": "a\0b"}, "text_input holds NUL at character 1"),
    "NUL in messages": (
        {"messages": '[{"role":"user","content":"\\u0000"}]'},
        "messages[0].content holds NUL",
    ),
    "invalid UTF-8 stop word": ({"stop_words": ["ok", b"\xc3"]}, "stop_words[1] is not UTF-8"),
    "lone surrogate": (
        {"messages": '[{"role":"user","content":"\\ud800"}]'},
        "messages[0].content holds the lone",
    ),
    "messages no JSON": ({"messages": "hello"}, "messages is not JSON"),
    "messages no list": ({"messages": '{"role":"user"}'}, "messages is an object"),
    "messages of nothing": ({"messages": "[]"}, "messages has 0 members"),
    "message no object": ({"messages": '["hi"]'}, "messages[0] is 'hi'"),
    "message without role": ({"messages": '[{"content":"x"}]'}, "messages[0].role is missing"),
    "message without content": ({"messages": '[{"role":"user"}]'}, "messages[0].content is missing"),
    "unknown role": (
        {"messages": '[{"role":"root","content":"x"}]'},
        "messages[0].role is 'root'; use one of system",
    ),
    "role of another type": ({"messages": '[{"role":["user"],"content":"x"}]'}, "messages[0].role is a list"),
    "unknown key": ({"messages": '[{"role":"user","content":"x","tool":1}]'}, "unknown key 'tool'"),
    "content a number": ({"messages": '[{"role":"user","content":7}]'}, "messages[0].content is 7"),
    "image part": (
        {"messages": '[{"role":"user","content":[{"type":"image_url"}]}]'},
        "content[0] is not a text part",
    ),
    "depth bomb": ({"messages": "[" * 200_000}, "messages is"),
    "closed depth bomb": ({"messages": "[" * 100_000 + "]" * 100_000}, "messages"),
    "depth bomb in content": (
        {"messages": '[{"role":"user","content":' + "[" * 900 + "]" * 900 + "}]"},
        "messages",
    ),
    "long number": (
        {"sampling_parameters": '{"max_tokens": ' + "9" * 5000 + "}"},
        "sampling_parameters holds a number",
    ),
    "too many messages": (
        {"messages": json.dumps([{"role": "user", "content": ""}] * 5000)},
        "has 5000 members",
    ),
    "30 MB prompt": ({"text_input": "x" * 30_000_000}, "text_input has 30000000 bytes; at most 8388608"),
    "30 MB messages": ({"messages": "x" * 30_000_000}, "messages has 30000000 bytes; at most 8388608"),
    "big settings": ({"sampling_parameters": "x" * 300_000}, "sampling_parameters has 300000 bytes"),
    "settings no object": ({"sampling_parameters": "[1]"}, "sampling_parameters is a list of 1"),
    "settings unknown": ({"sampling_parameters": '{"top_pp": 1}'}, "did you mean 'top_p'?"),
    "settings not served": ({"sampling_parameters": '{"ignore_eos": true}'}, "set min_tokens to max_tokens"),
    "settings twice": ({"sampling_parameters": '{"top_k": 1, "top_k": 2}'}, "has the key 'top_k' twice"),
    "settings prompt": ({"sampling_parameters": '{"text_input": "x"}'}, "'text_input' is no known member"),
    "settings bool": ({"sampling_parameters": '{"top_k": true}'}, "top_k is True; give an integer"),
    "settings fraction": (
        {"sampling_parameters": '{"max_tokens": 1.5}'},
        "max_tokens is 1.5; give an integer",
    ),
    "settings word": (
        {"sampling_parameters": '{"max_tokens": "many"}'},
        "max_tokens is 'many'; give an integer",
    ),
    "settings NaN": (
        {"sampling_parameters": '{"temperature": NaN}'},
        "temperature is nan; give a finite number",
    ),
    "settings overflow": ({"sampling_parameters": '{"temperature": 1e999}'}, "temperature is inf"),
    "settings null": ({"sampling_parameters": '{"temperature": null}'}, "temperature is None; give a number"),
    "settings negative seed": (
        {"sampling_parameters": '{"seed": -1}'},
        "seed is -1; the smallest allowed is 0",
    ),
    "settings long seed": (
        {"sampling_parameters": '{"seed": 18446744073709551616}'},
        "seed is 18446744073709551616",
    ),
    "settings stop": (
        {"sampling_parameters": '{"stop": [1]}'},
        "stop_words is a list of 1; give a string or a list",
    ),
    "contradiction": (
        {"max_tokens": 5, "sampling_parameters": '{"max_tokens": 6}'},
        "max_tokens is 5 and, in",
    ),
    "two lengths": ({"min_tokens": 5, "min_length": 6}, "min_length is 6, min_tokens 5"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_by_field_value_and_bound(case: str) -> None:
    values, expected = BAD[case]
    prompted = {"text_input", "messages"} & values.keys() or case == "neither prompt"
    assert expected in refusal(**(values if prompted else {"text_input": "x", **values}))


@pytest.mark.parametrize("case", GRAMMARS)
def test_a_grammar_is_refused_within_a_second(case: str) -> None:
    settings, expected = GRAMMARS[case]
    before = time.thread_time()
    assert expected in refusal(text_input="x", sampling_parameters=settings)
    assert time.thread_time() - before < 1


@pytest.mark.parametrize(
    "key", ["add_generation_prompt", "tokenize", "tools", "chat_template", "chat_template_kwargs"]
)
def test_nobody_sets_a_variable_of_the_chat_template(key: str) -> None:
    message = refusal(messages=CHAT, sampling_parameters=json.dumps({key: False}))
    assert f"'{key}' is no known member of sampling_parameters" in message
    assert f"'{key}' is no known request parameter" in refusal(messages=CHAT, parameters={key: False})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("temprature", "'temprature' is no known request parameter; did you mean 'temperature'?"),
        ("maxtokens", "did you mean 'max_tokens'?"),
        ("max_new_tokens", "did you mean 'max_tokens'?"),
        ("prompt", "text_input or messages"),
        ("wibble", "known are: text_input"),
        ("sampling_parameters", "is no known request parameter"),
        ("cancel", "is no known request parameter"),
    ],
)
def test_a_misspelt_field_is_refused_although_triton_calls_it_a_parameter(key: str, hint: str) -> None:
    assert hint in refusal(text_input="x", parameters={key: 1})


def test_parameters_that_are_settings_count_and_the_request_id_is_no_mistake() -> None:
    wanted = parse(
        text_input="x", parameters={"id": "7", "temperature": 0.25, "stream": "true", "top_k": 5.0}
    )
    assert wanted.sampling.temperature == 0.25
    assert wanted.sampling.top_k == 5
    assert wanted.stream


def test_settings_may_be_strings_as_genai_perf_sends_them() -> None:
    wanted = parse(
        text_input="x", sampling_parameters='{"max_tokens": "10", "temperature": "0.5", "top_k": " 3 "}'
    )
    assert (wanted.max_tokens, wanted.sampling.temperature, wanted.sampling.top_k) == (10, 0.5, 3)


def test_vllm_names_for_stop_words_and_n() -> None:
    wanted = parse(text_input="x", sampling_parameters='{"stop": "END", "n": 1}')
    assert wanted.stop_words == ("END",)


def test_the_same_value_in_two_places_is_no_contradiction() -> None:
    assert parse(text_input="x", temperature=0.7, sampling_parameters='{"temperature": 0.7}')


def test_empty_words_are_ignored_as_upstream_documents() -> None:
    wanted = parse(text_input="x", bad_words=[""], stop_words=["", "a", "a"])
    assert (wanted.bad_words, wanted.stop_words) == ((), ("a",))


def test_an_empty_list_is_no_word() -> None:
    words = np.empty((1, 0), dtype=np.object_)
    wanted = parse_request(
        {**wire_tensors({"text_input": "x"}), "stop_words": words}, "", limits=FrontLimits(), defaults=QWQ
    )
    assert wanted.stop_words == ()


def test_everything_upstreams_client_sends_is_accepted() -> None:
    wanted = parse(
        text_input="x",
        max_tokens=16,
        stream=False,
        beam_width=1,
        temperature=1.0,
        bad_words=["no"],
        stop_words=["stop"],
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.1,
        end_id=2,
        pad_id=0,
        num_return_sequences=1,
        return_log_probs=True,
        return_perf_metrics=True,
        exclude_input_in_output=False,
        length_penalty=1.0,
        min_length=2,
    )
    assert wanted.echo
    assert wanted.sampling.stop_token_ids == (2,)
    assert wanted.sampling.min_tokens == 2


def test_content_may_be_text_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    wanted = parse(messages=json.dumps([{"role": "user", "content": parts}]))
    assert wanted.messages is not None
    assert wanted.messages[0].content == "ab"


@pytest.mark.parametrize(
    ("defaults", "values", "temperature"),
    [
        (QWQ, {}, 0.6),
        (QWQ, {"temperature": 0.0}, 0.0),
        (QWQ, {"top_k": 1}, 0.0),
        (QWQ, {"temperature": 1.0, "top_k": 1}, 0.0),
        (SamplingDefaults(greedy=True), {}, 0.0),
        (SamplingDefaults(greedy=True), {"temperature": 0.8}, 0.8),
        (SamplingDefaults(greedy=True), {"top_p": 0.9}, 1.0),
        (SamplingDefaults(greedy=True), {"seed": 1}, 0.0),
    ],
)
def test_greedy_when_the_request_or_else_the_checkpoint_says_so(
    defaults: SamplingDefaults, values: dict[str, Any], temperature: float
) -> None:
    assert parse(defaults=defaults, text_input="x", **values).sampling.temperature == pytest.approx(
        temperature
    )


def test_the_checkpoints_defaults_fill_what_the_request_leaves_open() -> None:
    sampling = parse(text_input="x", top_p=0.5).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.6, 40, 0.5)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(value=json_values, key=st.sampled_from([*INPUT, "stop", "n", "zzz"]))
@settings(max_examples=400, deadline=None)
def test_any_json_setting_is_understood_or_refused(value: object, key: str) -> None:
    for values in ({"sampling_parameters": json.dumps({key: value})}, {"parameters": {key: value}}):
        try:
            parse(text_input="x", **values)
        except InvalidRequest as error:
            assert status_of(wire_message(error)) == INVALID_ARG


@given(data=st.binary(max_size=200))
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_understood_or_refused(data: bytes) -> None:
    for name in ("text_input", "messages", "sampling_parameters"):
        values = {name: data} if name != "sampling_parameters" else {"text_input": "x", name: data}
        try:
            parse(**values)
        except InvalidRequest as error:
            assert status_of(wire_message(error)) == INVALID_ARG


@given(turns=json_values)
@settings(max_examples=300, deadline=None)
def test_any_json_messages_are_understood_or_refused(turns: object) -> None:
    for value in (turns, [turns], [{"role": "user", "content": turns}]):
        try:
            parse(messages=json.dumps(value))
        except InvalidRequest as error:
            assert error.field.startswith("messages")


@pytest.fixture(scope="module")
def preparation(checkpoint: Path) -> Preparation:
    config = FrontConfig("m", limits=FrontLimits(max_tokens_default=20))
    return Preparation(
        config, PromptEncoder(checkpoint), EngineLimits(max_seq_len=64, slots=2, vocab_size=500)
    )


def prepare(preparation: Preparation, **values: Any) -> PreparedRequest:
    return preparation.prepare(wire_tensors(values), "", "id")


def test_prompt_and_max_tokens_may_fill_the_context_and_not_more(preparation: Preparation) -> None:
    prompt = len(prepare(preparation, text_input="Hello").engine.input_ids)
    assert (
        prepare(preparation, text_input="Hello", max_tokens=64 - prompt).engine.sampling.max_tokens
        == 64 - prompt
    )
    with pytest.raises(
        InvalidRequest, match=f"max_tokens is {65 - prompt} after a prompt of {prompt} tokens"
    ) as caught:
        prepare(preparation, text_input="Hello", max_tokens=65 - prompt)
    assert caught.value.hint == f"at most {64 - prompt} fit a context of 64"


@pytest.mark.parametrize(
    ("name", "value"),
    [("text_input", "z" * 64), ("messages", json.dumps([{"role": "user", "content": "z" * 64}]))],
)
def test_a_prompt_that_fills_the_context_is_refused_by_its_field(
    preparation: Preparation, name: str, value: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} has .* tokens") as caught:
        prepare(preparation, **{name: value})
    assert "at most 63 fit" in caught.value.hint


def test_a_request_without_max_tokens_gets_the_default_or_what_fits(preparation: Preparation) -> None:
    assert prepare(preparation, text_input="Hello").engine.sampling.max_tokens == 20
    long = prepare(preparation, text_input="z" * 60).engine
    assert long.sampling.max_tokens == 64 - len(long.input_ids)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"min_tokens": 11, "max_tokens": 10}, "min_tokens is 11"),
        ({"top_k": 501}, "top_k is 501"),
        ({"top_k": 1294967296}, "top_k is 1294967296"),
        ({"end_id": 500}, "end_id is 500"),
    ],
)
def test_what_only_the_engine_can_bound_is_bounded(
    preparation: Preparation, values: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidRequest, match=expected):
        prepare(preparation, text_input="Hello", **values)


def test_bad_words_are_banned_with_and_without_a_space_before(
    preparation: Preparation, checkpoint: Path
) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    banned = prepare(preparation, text_input="Hello", bad_words=["Paris"]).engine.sampling.bad_token_sequences
    assert {tokenizer.decode(list(ids)) for ids in banned} == {"Paris", " Paris"}
