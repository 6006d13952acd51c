"""What a caller chooses about an ONNX engine: limits, precision of the kernels, an optional long context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enginewright_errors import RecipeError

__all__ = ["EngineOptions", "LongContext"]


@dataclass(frozen=True, slots=True)
class LongContext:
    """A second rope region, YaRN over the checkpoint's own rope, that a request may choose.

    max_seq_len: positions of the region. factor: YaRN's scaling factor; 1.0 is plain rope.
    original_max_position_embeddings: the context of pre-training; None takes the checkpoint's.
    """

    max_seq_len: int
    factor: float
    original_max_position_embeddings: int | None = None


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of `write_engine`; every field is recorded in engine.json.

    max_seq_len: positions of the native region (prompt + answer).
    max_batch_size: KV slots wanted. prefill_chunk: tokens of one prefill step.
    kv_budget_bytes: bytes of all slots.
    accuracy_level: of MatMulNBits; 4 quantizes activations to int8 (fast), 0 keeps them fp32.
    lm_head: "int8" rounds an unquantized head to 8-bit blocks; "fp32" keeps it.
    fp8_compute: "int8" rounds FP8 weights to 8-bit blocks; "fp32" dequantizes them exactly.
    threads: intra-op threads that the runtime uses; None leaves it to the runtime.
    """

    max_seq_len: int = 2048
    max_batch_size: int = 8
    prefill_chunk: int = 256
    kv_budget_bytes: int = 2 << 30
    accuracy_level: Literal[0, 4] = 4
    lm_head: Literal["fp32", "int8"] = "int8"
    fp8_compute: Literal["fp32", "int8"] = "int8"
    long_context: LongContext | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        _at_least_one("max_seq_len", self.max_seq_len)
        _at_least_one("max_batch_size", self.max_batch_size)
        _at_least_one("prefill_chunk", self.prefill_chunk)
        _at_least_one("kv_budget_bytes", self.kv_budget_bytes)
        if self.threads is not None:
            _at_least_one("threads", self.threads)
        _one_of("accuracy_level", self.accuracy_level, (0, 4))
        _one_of("lm_head", self.lm_head, ("fp32", "int8"))
        _one_of("fp8_compute", self.fp8_compute, ("fp32", "int8"))
        if self.long_context is not None:
            _at_least_one("long_context.max_seq_len", self.long_context.max_seq_len)
            if not 1.0 <= self.long_context.factor <= 1024.0:
                raise RecipeError(
                    f"long_context.factor is {self.long_context.factor}",
                    code="engine-option",
                    hint="give YaRN's factor, from 1.0 to 1024.0",
                )


def _at_least_one(field: str, value: int) -> None:
    if value < 1:
        raise RecipeError(
            f"{field} is {value}", code="engine-option", hint="give a whole number of at least 1"
        )


def _one_of(field: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        choices = ", ".join(str(item) for item in allowed)
        raise RecipeError(f"{field} is {value!r}", code="engine-option", hint=f"choose one of: {choices}")
