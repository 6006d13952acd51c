"""QwQ-32B's dimensions and the targets that the recipes stand for."""

from __future__ import annotations

from enginewright_model import ModelSpec, RopeSpec
from enginewright_trtllm.target import TrtllmTarget, Variant, Yarn


def qwen2(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, head_dim: int, vocab: int
) -> ModelSpec:
    """An untied Qwen2 of these dimensions, served in bfloat16."""
    return ModelSpec(
        architecture="qwen2",
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
        max_position_embeddings=40_960,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        rope=RopeSpec("default", 1e6),
        dtype="bfloat16",
    )


QWQ = qwen2(5120, 27_648, 64, 40, 8, 128, 152_064)
NATIVE = Variant("native", 32_768)
LONG = Variant("long", 131_072, Yarn(4.0, 32_768))

# What the recipes calibrate with: 24 samples of 512 tokens, which the built-in text has.
CALIBRATION = 24 * 512
REPORT = 4 * 128 + 12 * 48  # the defaults: held-out text, and items with all their choices

# The recipes of the README, by name.
TARGETS = {
    "qwq-32b-fp8-h100": TrtllmTarget("fp8", "H100-80", calibration_tokens=CALIBRATION, report_tokens=REPORT),
    "qwq-32b-fp8-tp2": TrtllmTarget(
        "fp8",
        "H100-80",
        gpu_count=2,
        tp=2,
        max_batch_size=32,
        calibration_tokens=CALIBRATION,
        report_tokens=REPORT,
    ),
    "qwq-32b-int4-awq-24gb": TrtllmTarget(
        "int4_awq",
        "RTX4090-24",
        variants=(Variant("native", 6144),),
        max_batch_size=4,
        max_num_tokens=2048,
        kv_cache_free_gpu_mem_fraction=0.95,
        calibration_tokens=CALIBRATION,
        report_tokens=REPORT,
    ),
    "qwq-32b-int4-awq-24gb-two": TrtllmTarget(
        "int4_awq", "RTX4090-24", gpu_count=2, tp=2, calibration_tokens=CALIBRATION, report_tokens=REPORT
    ),
    "qwq-32b-int4-awq-yarn": TrtllmTarget(
        "int4_awq",
        "H100-80",
        gpu_count=2,
        variants=(NATIVE, LONG),
        calibration_tokens=CALIBRATION,
        report_tokens=REPORT,
    ),
}
FP8 = TARGETS["qwq-32b-fp8-h100"]
