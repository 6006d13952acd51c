"""An engine as lm-evaluation-harness 0.4 sees a model. Imported where `lm_eval` is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from enginewright_front.prompt import PromptEncoder

from enginewright.quality.generate import generate
from enginewright.quality.positions import target_log_probs

if TYPE_CHECKING:
    from enginewright_onnx.runtime import ModelSession

__all__ = ["EngineLM"]

LM: Any = import_module("lm_eval.api.model").LM  # untyped, and not installed where types are checked
_utils: Any = import_module("lm_eval.utils")

_ANSWER_TOKENS = 256  # where a task says nothing, as lm-eval's own models


class EngineLM(LM):
    """`lm_eval.api.model.LM` over a session: requests have `args` as described there."""

    def __init__(self, session: ModelSession, encoder: PromptEncoder) -> None:
        super().__init__()
        self._session = session
        self._encoder = encoder
        self._limit = session.config.native.max_seq_len
        self._start = session.config.eos_token_ids[0]  # in front of a text that has no context

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether greedy decoding would give it) of each request."""
        return [self._score(*self._encode_pair(*request.args)) for request in requests]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, in windows of the engine's context."""
        found = []
        for request in requests:
            ids = self._encoder.encode_output(request.args[0])
            windows = _utils.get_rolling_token_windows(list(ids), self._start, self._limit - 1, 1)
            pairs = (_utils.make_disjoint_window(window) for window in windows)
            found.append(sum(self._score(context, text)[0] for context, text in pairs))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to the first of the task's `until`."""
        from enginewright_onnx.runtime import SamplingParams

        prompts, samplings = [], list[SamplingParams]()
        for request in requests:
            context, options = request.args
            tokens = min(options.get("max_gen_toks", _ANSWER_TOKENS), self._limit // 2)
            ids = self._encoder.encode_text(context)[tokens - self._limit :]
            prompts.append(np.asarray(ids, np.int32))
            temperature = options.get("temperature", 0.0) if options.get("do_sample") else 0.0
            samplings.append(SamplingParams(max_tokens=tokens, temperature=temperature, seed=len(samplings)))
        answers = generate(self._session, prompts, samplings)
        return [
            _cut(self._encoder.tokenizer.decode(list(ids)), request.args[1])
            for request, ids in zip(requests, answers, strict=True)
        ]

    def _encode_pair(self, context: str, continuation: str) -> tuple[Sequence[int], Sequence[int]]:
        """The tokens of both together: a space between them belongs to the continuation."""
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        if not kept:
            return [self._start], self._encoder.encode_output(continuation)
        head = self._encoder.encode_text(kept)
        whole = self._encoder.encode_text(kept + continuation)
        return head, whole[len(head) :]

    def _score(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        from enginewright_onnx.runtime import score

        ids = np.asarray([*context, *continuation], np.int32)[-self._limit - 1 :]
        targets = ids[-min(len(continuation), len(ids) - 1) :]
        logits = score(self._session, ids[:-1])[-len(targets) :]
        greedy = bool((logits.argmax(axis=1) == targets).all())
        return float(target_log_probs(logits, targets).sum()), greedy


def _cut(text: str, options: Mapping[str, Any]) -> str:
    stops = options.get("until") or []
    for stop in filter(None, [stops] if isinstance(stops, str) else stops):
        text = text.split(stop, 1)[0]
    return text
