"""Emits a linear layer: `com.microsoft.MatMulNBits` for what has codes, `FusedMatMul` for float32.

Weights stay [N, K] row by row, as in the checkpoint, so that every layer streams through a few MiB. An input
scale that found no place in another weight stays as one Mul.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enginewright_onnx.block_format import largest_block, pack_rows, round_rows
from enginewright_onnx.graph_builder import MICROSOFT, GraphBuilder
from enginewright_onnx.linear_weights import LinearWeight

__all__ = ["LinearFormat", "emit_linear", "format_of"]

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LinearFormat:
    """How a layer is computed. bits None: float32; otherwise MatMulNBits with `block` columns a scale."""

    bits: int | None
    block: int | None = None


def format_of(weight: LinearWeight, *, dense: str, fp8: str) -> LinearFormat:
    """The format of `weight`. Integer codes map onto blocks exactly; `dense` and `fp8` ("fp32" or "int8") say
    what becomes of floats.

    A width that 16 does not divide has no blocks: floats stay float32 there, INT8 is dequantized.
    """
    if weight.kind == "int4":
        return LinearFormat(4, weight.group_size)
    block = largest_block(weight.columns)
    blocked = {"dense": dense, "fp8": fp8, "int8": "int8"}[weight.kind] == "int8" and block is not None
    return LinearFormat(8, block) if blocked else LinearFormat(None)


def emit_linear(
    graph: GraphBuilder,
    hidden: str,
    output: str,
    weights: Sequence[LinearWeight],
    form: LinearFormat,
    *,
    accuracy_level: int,
) -> str:
    """`output` = hidden [..., K] times the rows of all `weights`, one under the other, plus their bias."""
    first = weights[0]
    if first.pre_quant_scale is not None:
        scale = graph.constant(f"{output}.input_scale", first.pre_quant_scale)
        hidden = graph.node("Mul", (hidden, scale), f"{output}.input")
    biases = [weight.bias for weight in weights if weight.bias is not None]
    bias = graph.constant(f"{output}.bias", np.concatenate(biases)) if biases else ""
    if form.bits is None or form.block is None:
        return _emit_dense(graph, hidden, output, weights, bias)
    rows, blocks = sum(weight.rows for weight in weights), first.columns // form.block
    scales: list[Float32] = []
    codes = graph.stream(
        f"{output}.codes",
        np.dtype(np.uint8),
        (rows, blocks, form.block * form.bits // 8),
        _packed_slices(weights, form.bits, form.block, scales),
    )
    inputs = [hidden, codes, graph.constant(f"{output}.scales", np.concatenate(scales))]
    return graph.node(
        "MatMulNBits",
        [*inputs, "", "", bias] if bias else inputs,
        output,
        domain=MICROSOFT,
        K=first.columns,
        N=rows,
        bits=form.bits,
        block_size=form.block,
        accuracy_level=accuracy_level,
    )


def _emit_dense(
    graph: GraphBuilder, hidden: str, output: str, weights: Sequence[LinearWeight], bias: str
) -> str:
    shape = (sum(weight.rows for weight in weights), weights[0].columns)
    slices = (weight.dense(start, stop) for weight in weights for start, stop in weight.slices())
    matrix = graph.stream(f"{output}.weight", np.dtype(np.float32), shape, slices)
    # A MatMul over [K, N] is no faster and would need the whole weight at once to transpose it.
    product = graph.node(
        "FusedMatMul", (hidden, matrix), f"{output}.product" if bias else output, domain=MICROSOFT, transB=1
    )
    return graph.node("Add", (product, bias), output) if bias else product


def _packed_slices(
    weights: Sequence[LinearWeight], bits: int, block: int, scales: list[Float32]
) -> Iterator[npt.NDArray[np.uint8]]:
    """Packed codes slice by slice; each slice's scales are appended to `scales`."""
    for weight in weights:
        for start, stop in weight.slices():
            if weight.kind in ("int4", "int8"):
                part = pack_rows(*weight.codes(start, stop, block), bits)
            else:
                part = round_rows(weight.dense(start, stop), block)
            scales.append(part.scales)
            yield part.packed
