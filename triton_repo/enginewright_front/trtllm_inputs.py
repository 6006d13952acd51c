"""A request -> the input tensors of TensorRT-LLM's C++ model, by upstream's names, types and shapes."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginewright_front.backend import EngineRequest, Sampling
from enginewright_front.front_config import TensorrtLlm
from enginewright_front.refusal import InvalidRequest

Inputs = dict[str, NDArray[Any]]

MAX_TOP_K = 1024
"""Its sampling kernels' own bound; a larger one is clipped there, with a warning in the server's log only."""

# As in the ONNX engine: dividing logits by less overflows.
_GREEDY_BELOW = 1e-5


def engine_inputs(request: EngineRequest, engine: TensorrtLlm) -> Inputs:
    """Scalars [1, 1], input_ids [1, L], word lists [1, 2, n]; what has its neutral value is left out.

    Always streaming: that is how a lost request is noticed, and how a stop word ends one early. Raises
    InvalidRequest for settings that the C++ model does not have.
    """
    sampling = request.sampling
    inputs: Inputs = {
        "input_ids": np.array([request.input_ids], dtype=np.int32),
        "input_lengths": _scalar(len(request.input_ids), np.int32),
        "request_output_len": _scalar(sampling.max_tokens, np.int32),
        "streaming": _scalar(True, np.bool_),
        "exclude_input_in_output": _scalar(True, np.bool_),
        "pad_id": _scalar(engine.pad_id, np.int32),
        **_choice(sampling),
        **_penalties(sampling),
    }
    if engine.end_ids:
        inputs["end_id"] = _scalar(engine.end_ids[0], np.int32)
    # The model takes one end id; the others are stop words of one token.
    others = [(token,) for token in dict.fromkeys((*engine.end_ids[1:], *sampling.stop_token_ids))]
    for name, words in (("stop_words_list", others), ("bad_words_list", sampling.bad_token_sequences)):
        if words:
            inputs[name] = word_list(words)
    if sampling.logprobs:
        inputs["return_log_probs"] = _scalar(True, np.bool_)
    return inputs


def stop_inputs() -> Inputs:
    """The inputs of a request that ends the running one of the same request id."""
    return {
        "stop": _scalar(True, np.bool_),
        "input_ids": np.zeros((1, 1), dtype=np.int32),
        "input_lengths": _scalar(0, np.int32),
        "request_output_len": _scalar(0, np.int32),
    }


def word_list(words: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    """[1, 2, n]: the tokens of all words one after another; where each word ends, padded with -1."""
    tokens = [token for word in words for token in word]
    ends = np.cumsum([len(word) for word in words])
    made = np.full((1, 2, len(tokens)), -1, dtype=np.int32)
    made[0, 0] = tokens
    made[0, 1, : len(ends)] = ends
    return made


def _choice(sampling: Sampling) -> Inputs:
    if sampling.temperature < _GREEDY_BELOW:
        # Not temperature 0, which divides logits by nothing.
        return {"runtime_top_k": _scalar(1, np.int32), "runtime_top_p": _scalar(1.0, np.float32)}
    if sampling.min_p > 0:
        raise InvalidRequest(
            "min_p",
            f"is {sampling.min_p:g}",
            hint="TensorRT-LLM's model has no min_p: leave it out or send 0",
        )
    if sampling.top_k > MAX_TOP_K:
        raise InvalidRequest(
            "top_k",
            f"is {sampling.top_k}",
            hint=f"at most {MAX_TOP_K} is possible with TensorRT-LLM; 0 turns it off",
        )
    # Without a seed every request would get the engine's default one, and the same prompt the same answer.
    seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
    return {
        "temperature": _scalar(sampling.temperature, np.float32),
        "runtime_top_k": _scalar(sampling.top_k, np.int32),
        "runtime_top_p": _scalar(sampling.top_p, np.float32),
        "seed": _scalar(seed, np.uint64),
    }


def _penalties(sampling: Sampling) -> Inputs:
    given = {
        "repetition_penalty": (sampling.repetition_penalty, 1.0, np.float32),
        "presence_penalty": (sampling.presence_penalty, 0.0, np.float32),
        "frequency_penalty": (sampling.frequency_penalty, 0.0, np.float32),
        "min_tokens": (sampling.min_tokens, 0, np.int32),
    }
    return {
        name: _scalar(value, dtype) for name, (value, neutral, dtype) in given.items() if value != neutral
    }


def _scalar(value: float, dtype: Any) -> NDArray[Any]:
    return np.array([[value]], dtype=dtype)
