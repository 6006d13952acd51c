"""Element conversions and FP8 tables give torch's bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from enginewright_errors import CheckpointError
from enginewright_trtllm.elements import converter, ones
from enginewright_trtllm.float8 import DECODED, quantization_table, quantizer
from hypothesis import given, settings
from hypothesis import strategies as st

TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
EDGES = [0.0, -0.0, 1.0, 3.3895314e38, 1e-45, -1e-40, float("inf"), float("-inf"), 1.00390625, 1.01171875]


def convert(values: torch.Tensor, target: str) -> torch.Tensor:
    source = next(code for code, dtype in TORCH.items() if dtype == values.dtype)
    block = values.reshape(1, -1).view(torch.uint8).numpy()
    return torch.from_numpy(converter(source, target)(block).copy()).view(TORCH[target]).reshape(-1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(width=32, allow_nan=False) | st.sampled_from(EDGES), min_size=1, max_size=50))
def test_float32_rounds_to_bfloat16_as_torch_does(values: list[float]) -> None:
    wide = torch.tensor(values, dtype=torch.float32)
    ours, theirs = convert(wide, "BF16"), wide.to(torch.bfloat16)
    assert torch.equal(ours.view(torch.int16), theirs.view(torch.int16))


def test_nan_stays_nan_in_bfloat16() -> None:
    """0x7FFFFFFF would carry into the sign when rounded as a number."""
    bits = torch.tensor([0x7FFFFFFF, 0x7F800001, -1], dtype=torch.int32)
    assert convert(bits.view(torch.float32), "BF16").isnan().all()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-65000, 65000, width=32), min_size=1, max_size=50))
def test_float32_rounds_to_float16_as_torch_does(values: list[float]) -> None:
    wide = torch.tensor(values, dtype=torch.float32)
    assert torch.equal(convert(wide, "F16"), wide.to(torch.float16))


def test_a_value_beyond_float16_is_refused() -> None:
    with pytest.raises(CheckpointError, match="beyond float16"):
        convert(torch.tensor([70000.0]), "F16")


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_widening_is_exact_for_every_pattern(dtype: str) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(TORCH[dtype])
    ours, theirs = convert(every, "F32"), every.to(torch.float32)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours[~ours.isnan()], theirs[~theirs.isnan()])


def test_bfloat16_is_not_narrowed_to_float16() -> None:
    with pytest.raises(CheckpointError, match="BF16 cannot be written as F16"):
        converter("BF16", "F16")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_ones_are_ones(dtype: str) -> None:
    assert torch.frombuffer(bytearray(ones(3, dtype)), dtype=TORCH[dtype]).tolist() == [1.0] * 3


def test_float8_codes_decode_as_torch_decodes_them() -> None:
    theirs = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(DECODED, theirs, equal_nan=True)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@settings(deadline=None, max_examples=20)
@given(scale=st.floats(2.0**-20, 8.0, width=32))
def test_every_16_bit_weight_quantizes_as_torch_quantizes_it(dtype: str, scale: float) -> None:
    weights = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(TORCH[dtype])
    theirs = (weights.float() / torch.tensor([scale])).to(torch.float8_e4m3fn)
    ours = torch.from_numpy(quantization_table(dtype, np.float32(scale))).view(torch.float8_e4m3fn)
    beyond = ours.float().isnan()
    # Beyond 448 torch's releases differ (NaN or the largest value); the writer refuses such a weight.
    assert torch.equal(ours.view(torch.uint8)[~beyond], theirs.view(torch.uint8)[~beyond])
    assert not (weights.float() / scale).abs()[beyond].lt(464).any()


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(width=32, min_value=-440, max_value=440), min_size=1, max_size=50),
    st.sampled_from(DECODED[:126].tolist()),
    st.sampled_from([1.0, 0.037, 3e-5]),
)
def test_float32_is_rounded_to_fp8_once_as_torch_does(values: list[float], code: float, scale: float) -> None:
    """Beside the middle of two codes a rounding to BF16 first would lose which side it was."""
    middle = np.float32((code + DECODED[np.searchsorted(DECODED[:126], code) + 1]) / 2)
    beside = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    wide = np.float32([*values, middle, *beside]) * np.float32(scale)
    ours = quantizer("F32", np.float32(scale))(wide.reshape(1, -1).view(np.uint8))
    theirs = (torch.from_numpy(wide) / np.float32(scale).item()).to(torch.float8_e4m3fn).view(torch.uint8)
    assert np.array_equal(ours[0], theirs.numpy())
