"""A request that cannot be right is refused with the field's name, before it reaches the engine's thread."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from enginewright_errors import UsageError
from enginewright_onnx.runtime import GenerationRequest, SamplingParams
from enginewright_onnx.runtime.sequence import accept
from fake_model import fake_config

NAN, INF = math.nan, math.inf

WRONG: dict[str, list[Any]] = {
    "max_tokens": [0, -1, 2**31, 1.5, "8", None, True],
    "temperature": [-0.1, NAN, INF, -INF, "hot", None, 101.0],
    "top_k": [-1, 2**31, 0.5, "40"],
    "top_p": [0.0, -0.5, 1.01, NAN, INF],
    "min_p": [-0.1, 1.1, NAN],
    "repetition_penalty": [0.0, -1.0, NAN, INF, 1e-30, 1e30],
    "presence_penalty": [-2.1, 2.1, NAN],
    "frequency_penalty": [-2.1, 2.1, INF],
    "min_tokens": [-1, 9, 0.5],
    "seed": [-1, 2**64, 1.0, True],
    "stop_token_ids": [tuple(range(5000))],
    "bad_token_sequences": [((),), ((1,),) * 5000],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
def test_a_wrong_sampling_value_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        SamplingParams(**{"max_tokens": 8, field: value})
    assert caught.value.message.startswith(field)
    assert caught.value.hint


def test_the_bounds_themselves_are_accepted() -> None:
    SamplingParams(max_tokens=1, temperature=0.0, top_p=1e-9, min_p=1.0, min_tokens=1, seed=2**64 - 1)
    SamplingParams(max_tokens=2**31 - 1, temperature=np.float32(100.0), top_k=np.int32(2**31 - 1), seed=0)


@pytest.mark.parametrize(
    ("input_ids", "field"),
    [
        ((), "input_ids"),
        ((1, 2, 97), "input_ids"),
        ((1, -1), "input_ids"),
        (np.zeros(0, np.int32), "input_ids"),
        (np.zeros((2, 2), np.int32), "input_ids"),
        (np.zeros(3, np.float32), "input_ids"),
        ((2**40,), "input_ids"),
        (tuple(range(1, 32)), "max_tokens"),
        (np.zeros(10_000_000, np.int32), "max_tokens"),
    ],
)
def test_a_prompt_that_cannot_run_is_refused_by_name(input_ids: Any, field: str) -> None:
    request = GenerationRequest("r", input_ids, SamplingParams(max_tokens=2))
    with pytest.raises(UsageError) as caught:
        accept(request, fake_config(), print)
    assert caught.value.message.startswith(field)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(max_tokens=1, stop_token_ids=(97,)),
        SamplingParams(max_tokens=1, stop_token_ids=(-1,)),
        SamplingParams(max_tokens=1, bad_token_sequences=((1, 2), (3, 97))),
    ],
)
def test_token_ids_outside_the_vocabulary_are_refused_by_name(sampling: SamplingParams) -> None:
    with pytest.raises(UsageError, match=r"^(stop_token_ids|bad_token_sequences) "):
        accept(GenerationRequest("r", (1,), sampling), fake_config(), print)


def test_the_limit_is_exact_and_belongs_to_the_region() -> None:
    config = fake_config(slot_tokens=64)
    for long_context, limit in ((False, 32), (True, 64)):
        fits = GenerationRequest("r", [1] * (limit - 5), SamplingParams(max_tokens=5), long_context)
        assert len(accept(fits, config, print).tokens) == limit
        beyond = GenerationRequest("r", [1] * (limit - 5), SamplingParams(max_tokens=6), long_context)
        with pytest.raises(UsageError, match=f"the engine has {limit}"):
            accept(beyond, config, print)


def test_long_context_without_a_long_region_is_refused() -> None:
    import dataclasses

    config = dataclasses.replace(fake_config(), long=None)
    with pytest.raises(UsageError, match=r"^long_context "):
        accept(GenerationRequest("r", (1,), SamplingParams(max_tokens=1), True), config, print)
