"""Compare an engine with the checkpoint it came from, and fail the build when it is not the same model.

Four questions, each with a bound: do the logits on held-out text agree; does decoding token by token compute
what prefill computes; would the checkpoint have chosen the tokens that the engine generates; is the smoke
answer right. Bounds on KL and top-1 are the recipe's; an engine that rounds nothing beyond its checkpoint
(float32 kernels, accuracy level 0, float32 lm_head) is held to a bound on the logits as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from enginewright_errors import GateFailed, StageFailed
from enginewright_front.chat_template import read_chat_template
from enginewright_front.messages import Message
from enginewright_front.prompt import PromptEncoder, read_tokenizer
from enginewright_model import RopeSpec, read_json_object
from numpy.typing import NDArray

from enginewright.agreement import WORST, Agreement
from enginewright.calibration import load_held_out
from enginewright.recipe import VerifyRecipe
from enginewright.reference_logits import ReferenceSequence, reference_logits
from enginewright.torch_session import torch_session

__all__ = ["VerificationFailed", "VerifyBounds", "VerifyReport", "verify"]

Progress = Callable[[int, int], None]

_ANSWER_TOKENS = 64
# Token by token is slow on a large model, and an error of the cache shows within a few tokens.
_DECODE_TOKENS = 48
# Measured: 2e-6 with exact kernels; 0.04 with rounded ones (SmolLM2), whose bounds are KL and top-1.
_EXACT_LOGIT_ERROR = 1e-3
# Measured likewise: 2e-6, and 0.02 with int8 activations; an error of the cache is of the size of the logits.
_EXACT_DECODE_ERROR, _ROUNDED_DECODE_ERROR = 1e-4, 0.1
# What 64 tokens may fall short of the agreement on whole texts when they are not chosen exactly: by chance,
# and because a small model repeats its near-ties. SmolLM2 has 0.92 where it has 0.97 on texts.
_GREEDY_SLACK = 0.15


@dataclass(frozen=True, slots=True)
class VerifyBounds:
    """What the numbers of a report are held against; `max_logit_error` None: not bounded."""

    max_kl: float
    min_top1: float
    max_logit_error: float | None
    max_decode_error: float
    min_greedy: float


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The figures of a verification; the same inputs give the same report.

    positions: compared rows of logits. logit_scale: largest reference logit; the errors are relative to it.
    logit_error, mean_kl (nats), p99_kl, top1: engine against reference on held-out text, in one prefill.
    decode_error: prefill at once against token by token, in the engine.
    greedy: share of the `greedy_tokens` generated tokens that the reference would have chosen too.
    long_top1: top1 in the long-context region, None without one.
    answer: what the engine says to the smoke prompt.
    """

    positions: int
    logit_scale: float
    logit_error: float
    mean_kl: float
    p99_kl: float
    top1: float
    decode_error: float
    greedy_tokens: int
    greedy: float
    long_top1: float | None
    answer: str
    bounds: VerifyBounds

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class VerificationFailed(GateFailed):
    """The engine is not good enough; `report` has all the figures."""

    def __init__(self, problems: list[str], report: VerifyReport) -> None:
        super().__init__(
            f"verify: {'; '.join(problems)}",
            code="verify-gate",
            hint="a small model may only be rounded too coarsely: set engine.accuracy_level to 0 and "
            "engine.lm_head to fp32, or move the bound in verify; if that does not help, report it",
        )
        self.report = report


def verify(
    checkpoint: Path,
    engine: Path,
    options: VerifyRecipe,
    progress: Progress | None = None,
    *,
    threads: int | None = None,
) -> VerifyReport:
    """Verify the engine folder `engine` against the (quantized) `checkpoint` folder it was written from.

    `progress(layers done, layers)` of the reference, which takes most of the time.

    Raises:
        VerificationFailed: with every figure that broke its bound.
        RecipeError: more text asked for than there is.
        StageFailed: the engine could not be run.
    """
    from enginewright_onnx.runtime import Engine, ModelSession, read_engine_config, score

    held_out = load_held_out(options, checkpoint).ids
    description = read_json_object(engine / "engine.json")
    config = read_engine_config(engine)
    session = ModelSession.open(engine, config, threads=threads)
    probe = held_out[0, :_DECODE_TOKENS]
    at_once, one_by_one = score(session, probe), score(session, probe, chunk=1)
    prompt = _prompt(checkpoint, options, held_out, config.native.max_seq_len)
    with Engine(session, config) as running:
        generated = _greedy(running, prompt, config.native.max_seq_len)
    long = _long_sequence(description, held_out)
    sequences = [
        *(ReferenceSequence(row) for row in held_out),
        ReferenceSequence(np.asarray([*prompt, *generated], np.int32)),
        *([long] if long else []),
    ]
    native, long_context, greedy = Agreement(), Agreement(), 0
    with torch_session(threads):
        for number, wanted in enumerate(reference_logits(checkpoint, sequences, progress)):
            if number < len(held_out):
                native.add(wanted, score(session, sequences[number].ids))
            elif number == len(held_out):
                chosen = wanted[len(prompt) - 1 : -1].argmax(axis=1)
                greedy = int((chosen == np.asarray(generated)).sum())
            else:
                long_context.add(wanted, score(session, sequences[number].ids, long_context=True))
    report = VerifyReport(
        positions=native.positions,
        logit_scale=_rounded(native.logit_scale),
        logit_error=_rounded(native.logit_error),
        mean_kl=_rounded(native.mean_kl),
        p99_kl=_rounded(native.p99_kl),
        top1=_rounded(native.top1),
        decode_error=_rounded(_largest_difference(at_once, one_by_one) / native.logit_scale),
        greedy_tokens=len(generated),
        greedy=_rounded(greedy / len(generated)),
        long_top1=_rounded(long_context.top1) if long else None,
        answer=read_tokenizer(checkpoint).decode(list(generated), skip_special_tokens=True),
        bounds=_bounds(options, description),
    )
    problems = _problems(report, options)
    if problems:
        raise VerificationFailed(problems, report)
    return report


def _prompt(checkpoint: Path, options: VerifyRecipe, held_out: NDArray[np.int32], limit: int) -> list[int]:
    """The smoke prompt as the server would encode it, or the beginning of a text that is to be continued."""
    if options.smoke_prompt is None:
        ids = held_out[0, :16].tolist()
    else:
        encoder = PromptEncoder(checkpoint)
        ids = (
            encoder.encode_messages([Message("user", options.smoke_prompt)])
            if read_chat_template(checkpoint)
            else encoder.encode_text(options.smoke_prompt)
        )
    return list(ids[: limit - 1])


def _greedy(engine: Any, prompt: list[int], limit: int) -> tuple[int, ...]:
    from enginewright_onnx.runtime import SamplingParams

    sampling = SamplingParams(max_tokens=min(_ANSWER_TOKENS, limit - len(prompt)), temperature=0.0)
    generation = engine.generate(prompt, sampling)
    if generation.finish_reason not in ("stop", "length") or not generation.token_ids:
        raise StageFailed(
            f"verify: the engine did not answer: {generation.error or generation.finish_reason}",
            code="verify-run",
            hint="build the engine again; if it stays so, this is a bug: report it",
        )
    tokens: tuple[int, ...] = generation.token_ids
    return tokens


def _long_sequence(description: Mapping[str, Any], held_out: NDArray[np.int32]) -> ReferenceSequence | None:
    """One text with the rope of the long region, when the engine has one."""
    region = description["context"]["long"]
    return ReferenceSequence(held_out[0], RopeSpec(**region["rope"])) if region else None


def _bounds(options: VerifyRecipe, description: Mapping[str, Any]) -> VerifyBounds:
    quantization = description["quantization"]
    exact = (
        (quantization["format"] == "none" or quantization["accuracy_level"] == 0)
        and quantization["lm_head"] == "fp32"
        and quantization["fp8_compute"] != "int8"
    )
    logit_error = options.max_logit_error
    if logit_error is None and exact:
        logit_error = _EXACT_LOGIT_ERROR
    return VerifyBounds(
        max_kl=options.max_kl,
        min_top1=options.min_top1,
        max_logit_error=logit_error,
        max_decode_error=_EXACT_DECODE_ERROR if exact else _ROUNDED_DECODE_ERROR,
        min_greedy=options.min_top1 if exact else max(0.0, options.min_top1 - _GREEDY_SLACK),
    )


def _problems(report: VerifyReport, options: VerifyRecipe) -> list[str]:
    bounds = report.bounds
    checks = [
        ("mean KL", report.mean_kl, "at most", bounds.max_kl),
        ("top-1 agreement", report.top1, "at least", bounds.min_top1),
        ("largest logit error", report.logit_error, "at most", bounds.max_logit_error),
        ("prefill against decode", report.decode_error, "at most", bounds.max_decode_error),
        ("greedy agreement", report.greedy, "at least", bounds.min_greedy),
        ("top-1 agreement in the long context", report.long_top1, "at least", bounds.min_top1),
    ]
    problems = [
        f"{name} is {value:.4g}, it has to be {side} {bound:.4g}"
        for name, value, side, bound in checks
        if value is not None
        and bound is not None
        and not (value <= bound if side == "at most" else value >= bound)
    ]
    if options.smoke_expect is not None and options.smoke_expect not in report.answer:
        problems.append(f"the smoke answer {report.answer[:200]!r} does not contain {options.smoke_expect!r}")
    return problems


def _largest_difference(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    difference = float(np.abs(left - right).max())
    return difference if np.isfinite(difference) else WORST


def _rounded(value: float) -> float:
    """Six digits: what is left does not depend on the order of a sum."""
    return float(f"{value:.6g}")
