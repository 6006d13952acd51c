"""A request as TensorRT-LLM's C++ model gets it: upstream's names, types and shapes, and nothing that it
reads otherwise than the caller meant it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from enginewright_errors import UsageError
from enginewright_front.backend import EngineRequest, Sampling
from enginewright_front.front_config import EngineModel, TensorrtLlm
from enginewright_front.trtllm_inputs import Inputs, engine_inputs, stop_inputs, word_list
from enginewright_trtllm.triton_tensors import INPUTS
from hypothesis import given
from hypothesis import strategies as st
from triton_repo.trtllm_stand_in.word_lists import read_words

ENGINE = TensorrtLlm((EngineModel("tensorrt_llm", 96, 4),), vocab_size=384, end_ids=(2, 0), pad_id=0)
NEUTRAL = Sampling(
    max_tokens=7,
    min_tokens=0,
    temperature=0.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    seed=None,
    stop_token_ids=(),
    bad_token_sequences=(),
    logprobs=False,
)
EVERYTHING = replace(
    NEUTRAL,
    min_tokens=3,
    temperature=0.7,
    top_k=40,
    top_p=0.9,
    repetition_penalty=1.1,
    presence_penalty=0.5,
    frequency_penalty=-0.5,
    seed=2**64 - 1,
    stop_token_ids=(9,),
    bad_token_sequences=((5, 6), (7,)),
    logprobs=True,
)
DTYPES = {
    "TYPE_INT32": np.int32,
    "TYPE_FP32": np.float32,
    "TYPE_BOOL": np.bool_,
    "TYPE_UINT64": np.uint64,
}


def inputs(sampling: Sampling, engine: TensorrtLlm = ENGINE) -> Inputs:
    return engine_inputs(EngineRequest("id", (11, 12, 13), sampling), engine)


def plain(sampling: Sampling) -> dict[str, object]:
    """The scalars by name."""
    return {name: array[0, 0].item() for name, array in inputs(sampling).items() if array.size == 1}


@pytest.mark.parametrize("made", [inputs(NEUTRAL), inputs(EVERYTHING), stop_inputs()])
def test_every_tensor_is_declared_with_its_type_and_shape(made: Inputs) -> None:
    declared = {tensor.name: tensor for tensor in INPUTS}
    for name, array in made.items():
        tensor = declared[name]
        assert array.dtype == DTYPES[tensor.data_type], name
        assert len(array.shape) == len(tensor.dims) + 1
        assert array.shape[0] == 1
        assert all(wanted in (-1, given) for wanted, given in zip(tensor.dims, array.shape[1:], strict=True))
    assert {tensor.name for tensor in INPUTS if not tensor.optional} <= made.keys()


def test_greedy_is_top_k_1_and_never_a_temperature_of_0() -> None:
    for sampling in (NEUTRAL, replace(NEUTRAL, temperature=1e-6, top_k=50, top_p=0.1)):
        made = plain(sampling)
        assert (made["runtime_top_k"], made["runtime_top_p"]) == (1, 1.0)
        assert not {"temperature", "seed"} & made.keys()


def test_sampling_without_limits_is_top_k_0_and_top_p_1_with_a_seed_of_its_own() -> None:
    first, second = (plain(replace(NEUTRAL, temperature=1.0)) for _ in range(2))
    assert (first["temperature"], first["runtime_top_k"], first["runtime_top_p"]) == (1.0, 0, 1.0)
    assert first["seed"] != second["seed"], "the engine's default seed is the same for all"


def test_the_callers_settings_arrive_as_they_are() -> None:
    made = plain(EVERYTHING)
    assert made["seed"] == 2**64 - 1
    assert made["request_output_len"] == 7
    assert made["min_tokens"] == 3
    assert made["repetition_penalty"] == pytest.approx(1.1)
    assert made["presence_penalty"] == 0.5
    assert made["frequency_penalty"] == -0.5
    assert made["return_log_probs"] is True


def test_the_first_end_id_is_end_id_and_the_others_are_stop_words() -> None:
    made = inputs(EVERYTHING)
    assert made["end_id"].tolist() == [[2]]
    assert read_words(made["stop_words_list"]) == [(0,), (9,)]
    assert read_words(made["bad_words_list"]) == [(5, 6), (7,)]
    assert "stop_words_list" not in inputs(NEUTRAL, replace(ENGINE, end_ids=(2,)))


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9), min_size=1, max_size=20))
def test_a_word_list_is_read_back_as_the_same_words(words: list[list[int]]) -> None:
    made = word_list(words)
    assert made.dtype == np.int32
    assert read_words(made) == [tuple(word) for word in words]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"min_p": 0.1}, "min_p is 0.1"), ({"top_k": 1025}, "top_k is 1025")],
)
def test_what_the_model_does_not_have_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        inputs(replace(NEUTRAL, temperature=1.0, **change))
    inputs(replace(NEUTRAL, **change))
