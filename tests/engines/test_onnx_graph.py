"""The fp32 decoder graph against transformers, and against itself in every way of feeding it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engines.graph_runner import GraphRunner, scaled_error
from engines.reference_model import ReferenceModel
from enginewright_onnx import EngineOptions, LongContext, write_engine

EXACT = EngineOptions(
    max_seq_len=256, accuracy_level=0, lm_head="fp32", long_context=LongContext(1024, 4.0, 256)
)
TOKENS = np.random.default_rng(0).integers(3, 512, 48)
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 256}


@pytest.fixture(scope="module")
def engine(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 engine with a native and a long region."""
    return write_engine(tiny(arch="qwen2"), tmp_path_factory.mktemp("engine"), EXACT).folder


@pytest.fixture(scope="module")
def whole(engine: Path) -> np.ndarray:
    """Logits of TOKENS, prefilled at once."""
    return GraphRunner(engine).step(TOKENS[None])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("arch", ["qwen2", "llama"])
def test_fp32_logits_equal_transformers(
    tiny: Callable[..., Path], tmp_path: Path, arch: str, tied: bool, dtype: str
) -> None:
    checkpoint = tiny(arch=arch, tied=tied, dtype=dtype)
    write_engine(checkpoint, tmp_path, EXACT)
    logits = GraphRunner(tmp_path).step(TOKENS[None])
    assert scaled_error(logits, ReferenceModel(checkpoint).logits(TOKENS)) <= 1e-5


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 3.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    ],
    ids=lambda scaling: str(scaling["rope_type"]),
)
def test_scaled_rope_of_a_checkpoint_equals_transformers(
    tiny: Callable[..., Path], tmp_path: Path, scaling: dict[str, object]
) -> None:
    checkpoint = tiny(arch="llama", rope_scaling=scaling, rope_theta=1e4)
    write_engine(checkpoint, tmp_path, EngineOptions(max_seq_len=256, lm_head="fp32"))
    logits = GraphRunner(tmp_path).step(TOKENS[None])
    assert scaled_error(logits, ReferenceModel(checkpoint).logits(TOKENS)) <= 1e-5


@pytest.mark.parametrize(
    ("hidden", "heads", "kv_heads"), [(64, 4, 4), (64, 4, 1), (320, 4, 2)], ids=["MHA", "MQA", "head of 80"]
)
def test_other_head_geometries_equal_transformers(
    tiny: Callable[..., Path], tmp_path: Path, hidden: int, heads: int, kv_heads: int
) -> None:
    checkpoint = tiny(hidden=hidden, heads=heads, kv_heads=kv_heads, intermediate=160)
    write_engine(checkpoint, tmp_path, EXACT)
    logits = GraphRunner(tmp_path).step(TOKENS[None])
    assert scaled_error(logits, ReferenceModel(checkpoint).logits(TOKENS)) <= 1e-5


@pytest.mark.parametrize("chunk", [1, 7, 32])
def test_chunked_prefill_equals_prefill_at_once(engine: Path, whole: np.ndarray, chunk: int) -> None:
    runner = GraphRunner(engine)
    parts = [runner.step(TOKENS[None, start : start + chunk]) for start in range(0, len(TOKENS), chunk)]
    assert scaled_error(np.concatenate(parts), whole) <= 1e-5


def test_a_slot_reused_over_stale_keys_gives_the_same_logits(engine: Path, whole: np.ndarray) -> None:
    runner = GraphRunner(engine)
    runner.step(TOKENS[None, ::-1])
    runner.clear()
    assert scaled_error(runner.step(TOKENS[None]), whole) <= 1e-5


def test_ragged_decode_rows_equal_each_alone(engine: Path) -> None:
    lengths = (3, 40, 17, 1)
    prompts = [np.roll(TOKENS, shift)[:length] for shift, length in enumerate(lengths)]
    together = GraphRunner(engine, slots=4)
    for slot, prompt in enumerate(prompts):
        together.step(prompt[None], slots=(slot,))
    batch = [together.step(np.full((4, 1), token), slots=(0, 1, 2, 3)) for token in (11, 12, 13)]
    for slot, prompt in enumerate(prompts):
        alone = GraphRunner(engine)
        alone.step(prompt[None])
        for step, token in enumerate((11, 12, 13)):
            assert scaled_error(batch[step][slot], alone.step([[token]])[0]) <= 1e-5


def test_decode_rows_may_leave_and_change_places(engine: Path) -> None:
    together = GraphRunner(engine, slots=3)
    for slot in range(3):
        together.step(np.roll(TOKENS, slot)[None, : 10 + slot], slots=(slot,))
    rows = together.step([[21], [22]], slots=(2, 0))
    for row, (slot, token) in enumerate(((2, 21), (0, 22))):
        alone = GraphRunner(engine)
        alone.step(np.roll(TOKENS, slot)[None, : 10 + slot])
        assert scaled_error(rows[row], alone.step([[token]])[0]) <= 1e-5


def test_only_the_rows_that_are_asked_for_come_back_in_that_order(engine: Path, whole: np.ndarray) -> None:
    picked = GraphRunner(engine).step(TOKENS[None], rows=[47, 0, 5])
    assert scaled_error(picked, whole[[47, 0, 5]]) <= 1e-5


def test_a_chunk_that_wants_no_logits_still_fills_the_cache(engine: Path, whole: np.ndarray) -> None:
    runner = GraphRunner(engine)
    assert runner.step(TOKENS[None, :40], rows=[]).shape == (0, 512)
    assert scaled_error(runner.step(TOKENS[None, 40:]), whole[40:]) <= 1e-5


@pytest.mark.parametrize("chunk", [48, 7, 1])
def test_the_long_region_equals_transformers_with_yarn(
    tiny: Callable[..., Path], engine: Path, whole: np.ndarray, chunk: int
) -> None:
    expected = ReferenceModel(tiny(arch="qwen2"), rope=YARN).logits(TOKENS)
    runner = GraphRunner(engine, offset=256)
    parts = [runner.step(TOKENS[None, start : start + chunk]) for start in range(0, len(TOKENS), chunk)]
    assert scaled_error(np.concatenate(parts), expected) <= 1e-5
    assert scaled_error(whole, expected) > 0.1, "the regions must differ for this test to mean anything"


def test_the_long_region_reaches_positions_that_the_native_one_has_not(
    tiny: Callable[..., Path], engine: Path
) -> None:
    long_text = np.random.default_rng(5).integers(3, 512, 700)
    expected = ReferenceModel(tiny(arch="qwen2"), rope=YARN).logits(long_text)
    runner = GraphRunner(engine, capacity=1024, offset=256)
    runner.step(long_text[None, :600], rows=[])
    assert scaled_error(runner.step(long_text[None, 600:]), expected[600:]) <= 1e-5


def test_rows_of_both_regions_share_a_decode_batch(tiny: Callable[..., Path], engine: Path) -> None:
    runner = GraphRunner(engine, slots=2, offset=(0, 256))
    runner.step(TOKENS[None, :20], slots=(0,))
    runner.step(TOKENS[None, :30], slots=(1,))
    native, long = runner.step([[TOKENS[20]], [TOKENS[30]]], slots=(0, 1))
    checkpoint = tiny(arch="qwen2")
    assert scaled_error(native, ReferenceModel(checkpoint).logits(TOKENS[:21])[-1]) <= 1e-5
    assert scaled_error(long, ReferenceModel(checkpoint, rope=YARN).logits(TOKENS[:31])[-1]) <= 1e-5
