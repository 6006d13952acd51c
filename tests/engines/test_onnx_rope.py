"""cos/sin tables against transformers' own functions, and the regions of one table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from enginewright_model import RopeSpec
from enginewright_onnx.rope import inverse_frequencies, rope_tables
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

QWQ = RopeSpec("yarn", 1e6, factor=4.0, original_max_position_embeddings=32768)
LLAMA3 = RopeSpec(
    "llama3",
    5e5,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8192,
)


def transformers_tables(spec: RopeSpec, head_dim: int, positions: int) -> tuple[np.ndarray, np.ndarray]:
    """What the transformers model would multiply with: the first halves of its cos and sin."""
    config = LlamaConfig(
        hidden_size=head_dim,
        num_attention_heads=1,
        head_dim=head_dim,
        max_position_embeddings=spec.original_max_position_embeddings or 4096,
        rope_parameters=spec.as_json(),
    )
    module = LlamaRotaryEmbedding(config)
    cos, sin = module(torch.zeros(1), torch.arange(positions)[None])
    half = head_dim // 2
    return cos[0, :, :half].numpy(), sin[0, :, :half].numpy()


@pytest.mark.parametrize(
    ("spec", "head_dim", "positions"),
    [
        pytest.param(QWQ, 128, 131072, id="QwQ over its whole context"),
        pytest.param(RopeSpec("default", 1e6), 128, 40960, id="Qwen2.5"),
        pytest.param(LLAMA3, 128, 131072, id="Llama 3.1"),
        pytest.param(RopeSpec("linear", 1e4, factor=2.5), 64, 16384, id="linear"),
        pytest.param(
            RopeSpec("yarn", 1e4, factor=8.0, original_max_position_embeddings=2048, truncate=False),
            80,
            16384,
            id="YaRN without truncation",
        ),
        pytest.param(
            RopeSpec(
                "yarn",
                1e5,
                factor=16.0,
                original_max_position_embeddings=4096,
                beta_fast=16.0,
                beta_slow=2.0,
                mscale=1.0,
                mscale_all_dim=0.5,
            ),
            64,
            65536,
            id="YaRN with every optional field",
        ),
        pytest.param(
            RopeSpec("yarn", 1e6, factor=4.0, original_max_position_embeddings=512, attention_factor=0.9),
            64,
            2048,
            id="YaRN with its own attention factor",
        ),
    ],
)
def test_tables_equal_transformers(spec: RopeSpec, head_dim: int, positions: int) -> None:
    expected_cos, expected_sin = transformers_tables(spec, head_dim, positions)
    cos, sin = rope_tables([(spec, positions)], head_dim)
    assert cos.dtype == sin.dtype == np.float32
    assert np.abs(cos - expected_cos).max() <= 1e-6
    assert np.abs(sin - expected_sin).max() <= 1e-6


def test_qwq_attention_factor_is_the_one_of_the_model_card() -> None:
    assert inverse_frequencies(QWQ, 128)[1] == pytest.approx(1.138629436, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    theta=st.floats(1e3, 1e7),
    factor=st.floats(1.0, 64.0),
    context=st.integers(256, 65536),
    head_dim=st.sampled_from([16, 64, 80, 128]),
)
def test_yarn_frequencies_equal_transformers_for_any_numbers(
    theta: float, factor: float, context: int, head_dim: int
) -> None:
    spec = RopeSpec("yarn", theta, factor=factor, original_max_position_embeddings=context)
    config = LlamaConfig(
        hidden_size=head_dim,
        num_attention_heads=1,
        max_position_embeddings=context,
        rope_parameters=spec.as_json(),
    )
    expected, expected_factor = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    frequencies, attention_factor = inverse_frequencies(spec, head_dim)
    np.testing.assert_allclose(frequencies, expected.numpy(), rtol=3e-7)
    assert attention_factor == pytest.approx(expected_factor, rel=1e-12)


def test_yarn_of_factor_one_is_plain_rope() -> None:
    plain, _ = rope_tables([(RopeSpec("default", 1e6), 4096)], 128)
    yarn, _ = rope_tables(
        [(RopeSpec("yarn", 1e6, factor=1.0, original_max_position_embeddings=4096), 4096)], 128
    )
    np.testing.assert_array_equal(yarn, plain)


def test_regions_lie_one_after_the_other_and_each_starts_at_position_zero() -> None:
    native = RopeSpec("default", 1e6)
    cos, sin = rope_tables([(native, 100), (QWQ, 9000)], 64)
    assert cos.shape == sin.shape == (9100, 32)
    np.testing.assert_array_equal(cos[:100], rope_tables([(native, 100)], 64)[0])
    np.testing.assert_array_equal(sin[100:], rope_tables([(QWQ, 9000)], 64)[1])
