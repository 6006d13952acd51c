"""Answers of an engine to several prompts at once, the same each time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from enginewright_errors import StageFailed
from numpy.typing import NDArray

if TYPE_CHECKING:
    from enginewright_onnx.runtime import ModelSession, SamplingParams, TokenEvent

__all__ = ["generate"]


def generate(
    session: ModelSession, prompts: Sequence[NDArray[np.int32]], samplings: Sequence[SamplingParams]
) -> list[tuple[int, ...]]:
    """The tokens that follow prompts[i] with samplings[i].

    Without the engine's thread: when requests arrive decides which are computed together, and kernels with
    int8 activations turn a near-tie by that.
    """
    from enginewright_onnx.runtime import GenerationRequest
    from enginewright_onnx.runtime.batcher import Batcher
    from enginewright_onnx.runtime.sequence import accept

    batcher = Batcher(session, prefill_chunk=session.config.prefill_chunk)
    answers: list[list[int]] = [[] for _ in prompts]
    errors: list[str] = []

    def collect(index: int, event: TokenEvent) -> None:
        answers[index].extend(event.token_ids)
        if event.error is not None:
            errors.append(event.error)

    for index, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
        request = GenerationRequest(str(index), prompt, sampling)
        batcher.add(accept(request, session.config, partial(collect, index)))
    while batcher.busy:
        batcher.step()
    if errors:
        raise StageFailed(
            f"report: the engine did not answer: {errors[0]}",
            code="report-run",
            hint="build the engine again; if it stays so, this is a bug: report it",
        )
    return [tuple(answer) for answer in answers]
