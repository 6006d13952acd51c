"""Tensor- and pipeline-parallel sizes: which ones divide a model, and which rank holds what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from enginewright_errors import RecipeError
from enginewright_model import ModelSpec

from enginewright_trtllm.quantization import Quantization

__all__ = ["Parallel", "allowed_tp", "check_parallel"]


@dataclass(frozen=True, slots=True)
class Parallel:
    """tp x pp ranks; rank = pp_rank * tp + tp_rank (upstream's Mapping, and ModelOpt's exporter)."""

    tp: int = 1
    pp: int = 1

    @property
    def world_size(self) -> int:
        return self.tp * self.pp

    def rank(self, pp_rank: int, tp_rank: int) -> int:
        return pp_rank * self.tp + tp_rank

    def layers(self, pp_rank: int, num_layers: int) -> range:
        """Global indices of a stage's layers; in its file they are named 0, 1, ... again.

        Upstream's DecoderLayerList is a list over `mapping.pp_layers`, so its parameter names count from 0 on
        every stage; ModelOpt's exporter slices its layers in the same way.
        """
        each = num_layers // self.pp
        return range(pp_rank * each, (pp_rank + 1) * each)


def check_parallel(model: ModelSpec, quantization: Quantization, parallel: Parallel) -> None:
    """Raise RecipeError, naming the dimension and the sizes that would do, when `parallel` does not
    divide."""
    for size, field in ((parallel.tp, "tp"), (parallel.pp, "pp")):
        if size < 1:
            raise RecipeError(f"{field} = {size} is below 1", code="parallel-size", hint="Use 1, 2, 4 or 8.")
    for what, value, step in _tp_rules(model, quantization, parallel.tp):
        if value % step:
            raise RecipeError(
                f"tp = {parallel.tp}: {what} {value} is not a multiple of {step}",
                code="tp-does-not-divide",
                hint=f"Sizes that divide this model: {', '.join(map(str, allowed_tp(model, quantization)))}.",
            )
    # Uneven stages load upstream, but releases differ in which stage gets the extra layer.
    if model.num_layers % parallel.pp:
        raise RecipeError(
            f"pp = {parallel.pp}: num_hidden_layers {model.num_layers} is not a multiple of it",
            code="pp-does-not-divide",
            hint="Use pp = 1, or a divisor of the number of layers.",
        )


def allowed_tp(model: ModelSpec, quantization: Quantization) -> tuple[int, ...]:
    """The tensor-parallel sizes among 1, 2, 4, 8, 16 that divide the model."""
    return tuple(
        tp
        for tp in (1, 2, 4, 8, 16)
        if all(value % step == 0 for _, value, step in _tp_rules(model, quantization, tp))
    )


def _tp_rules(model: ModelSpec, quantization: Quantization, tp: int) -> Iterator[tuple[str, int, int]]:
    """(name of a dimension, its value, what it must be a multiple of)."""
    yield "num_attention_heads", model.num_heads, tp
    # Upstream can build with one KV head copied to several ranks; the checkpoint is not split that way here.
    yield "num_key_value_heads", model.num_kv_heads, tp
    yield "intermediate_size", model.intermediate_size, tp
    if quantization.format != "int4_awq":
        return
    # Upstream pads its int4 parameters to these multiples and then refuses an unpadded tensor by its shape.
    step = max(64, quantization.group_size) * tp
    query = model.query_size
    yield "hidden_size (an AWQ linear's width)", model.hidden_size, step
    yield "q_proj's output (an AWQ linear's width)", query, step
    yield (
        "the width of q, k and v together (an AWQ linear's width)",
        query + 2 * model.kv_size,
        step,
    )
    yield "intermediate_size (an AWQ linear's width)", model.intermediate_size, step
    # Two rows share a byte: every rank must start on an even row of k and v.
    yield "k_proj's output (rows are packed in pairs)", model.kv_size, 2 * tp
