"""The MatMulNBits layout: what is packed comes back from ONNX Runtime's own operator."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from enginewright_onnx.block_format import BlockRows, largest_block, pack_rows, round_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper


def unpack_with_onnxruntime(rows: BlockRows, bits: int, block: int) -> npt.NDArray[np.float32]:
    """The weight [rows, K] that the operator sees: its product with the identity, transposed."""
    count, blocks = rows.scales.shape
    columns = blocks * block
    node = helper.make_node(
        "MatMulNBits",
        ["hidden", "codes", "scales"],
        ["product"],
        domain="com.microsoft",
        K=columns,
        N=count,
        bits=bits,
        block_size=block,
        accuracy_level=0,
    )
    graph = helper.make_graph(
        [node],
        "identity",
        [
            helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [columns, columns]),
            helper.make_tensor_value_info("codes", TensorProto.UINT8, list(rows.packed.shape)),
            helper.make_tensor_value_info("scales", TensorProto.FLOAT, list(rows.scales.shape)),
        ],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, [columns, count])],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feeds = {"hidden": np.eye(columns, dtype=np.float32), "codes": rows.packed, "scales": rows.scales}
    (product,) = session.run(None, feeds)
    return np.ascontiguousarray(product.T)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [16, 32, 64, 128, 256])
def test_onnxruntime_reads_back_every_code_exactly(bits: int, block: int) -> None:
    random = np.random.default_rng(0)
    codes = random.integers(0, 1 << bits, (6, 512)).astype(np.uint8)
    scales = random.uniform(0.5, 2.0, (6, 512 // block)).astype(np.float32)
    expected = (codes.astype(np.float32) - 2.0 ** (bits - 1)) * np.repeat(scales, block, axis=1)
    np.testing.assert_array_equal(
        unpack_with_onnxruntime(pack_rows(codes, scales, bits), bits, block), expected
    )


@settings(max_examples=60, deadline=None)
@given(
    weight=hnp.arrays(np.float32, (4, 64), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)),
    block=st.sampled_from([16, 32, 64]),
)
def test_rounding_errs_by_half_a_step_of_its_own_block_at_most(
    weight: npt.NDArray[np.float32], block: int
) -> None:
    rows = round_rows(weight, block)
    restored = (rows.packed.reshape(weight.shape).astype(np.float64) - 128) * np.repeat(
        rows.scales, block, axis=1
    )
    largest = np.repeat(np.abs(weight).reshape(4, -1, block).max(axis=2), block, axis=1)
    assert (np.abs(restored - weight) <= largest / 254 * (1 + 1e-5)).all()


def test_a_block_of_zeros_stays_zero() -> None:
    rows = round_rows(np.zeros((2, 32), np.float32), 16)
    assert (rows.packed == 128).all()
    assert (rows.scales == 0).all()


@pytest.mark.parametrize(
    ("columns", "block"), [(5120, 128), (27648, 128), (576, 64), (896, 128), (48, 16), (100, None)]
)
def test_the_largest_block_divides_the_width(columns: int, block: int | None) -> None:
    assert largest_block(columns) == block
