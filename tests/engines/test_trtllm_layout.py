"""Names, shapes and dtypes of rank files are those that TensorRT-LLM's own loader loaded
(trtllm_contract.json)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from enginewright_errors import RecipeError
from enginewright_model import ModelSpec
from enginewright_trtllm.config import quantization_block
from enginewright_trtllm.layout import stage_entries
from enginewright_trtllm.parallel import Parallel, allowed_tp, check_parallel
from enginewright_trtllm.quantization import Quantization
from trtllm_targets import qwen2

CONTRACT = json.loads((Path(__file__).parent / "trtllm_contract.json").read_text())
CODES = {"bfloat16": "BF16", "float32": "F32", "int8": "I8", "float8_e4m3fn": "F8_E4M3"}
QUANTIZATIONS = {
    "none": Quantization("none"),
    "fp8": Quantization("fp8"),
    "fp8kv": Quantization("fp8", kv_fp8=True),
    "awq": Quantization("int4_awq", group_size=128),
}
QWQ = qwen2(5120, 27648, 1, 40, 8, 128, 152064)
TINY = qwen2(512, 1024, 1, 8, 4, 64, 1000)


def contract_cases() -> list[tuple[ModelSpec, str, str]]:
    models = {"qwq32b_one_layer": QWQ, "tiny_model": TINY}
    return [(model, part, case) for part, model in models.items() for case in CONTRACT[part]]


@pytest.mark.parametrize(("model", "part", "case"), contract_cases())
def test_rank_files_have_exactly_the_tensors_that_upstream_loaded(
    model: ModelSpec, part: str, case: str
) -> None:
    name, tp = case.rsplit("_tp", 1)
    parallel = Parallel(tp=int(tp))
    check_parallel(model, QUANTIZATIONS[name], parallel)
    ours = {
        entry.name: (list(entry.shape), entry.dtype)
        for entry in stage_entries(model, QUANTIZATIONS[name], parallel, 0)
    }
    assert ours == {name: (shape, CODES[dtype]) for name, (shape, dtype) in CONTRACT[part][case].items()}


def test_the_contract_covers_every_quantization_at_every_size() -> None:
    assert set(CONTRACT["qwq32b_one_layer"]) == {f"{q}_tp{tp}" for q in QUANTIZATIONS for tp in (1, 2, 4, 8)}
    assert set(CONTRACT["tiny_model"]) == {f"{q}_tp{tp}" for q in QUANTIZATIONS for tp in (1, 2, 4)}


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_quantization_blocks_are_the_ones_that_upstream_read(name: str) -> None:
    assert quantization_block(QUANTIZATIONS[name]) == CONTRACT["quantization_blocks"][name]


def test_pipeline_stages_share_out_layers_and_ends() -> None:
    model = qwen2(160, 288, 4, 40, 8, 4, 320)
    first, last = (
        list(stage_entries(model, Quantization("none"), Parallel(2, 2), stage)) for stage in (0, 1)
    )
    ends = {"transformer.vocab_embedding.weight", "transformer.ln_f.weight", "lm_head.weight"}
    assert {entry.name for entry in first} & ends == {"transformer.vocab_embedding.weight"}
    assert {entry.name for entry in last} & ends == {"transformer.ln_f.weight", "lm_head.weight"}
    # Local indices, as upstream's DecoderLayerList and ModelOpt's exporter name them.
    for stage, of in ((first, "model.layers.1."), (last, "model.layers.3.")):
        norm = next(e for e in stage if e.name == "transformer.layers.1.input_layernorm.weight")
        assert norm.sources[0].name.startswith(of)


@pytest.mark.parametrize(
    ("model", "quantization", "parallel", "named"),
    [
        (QWQ, "none", Parallel(tp=3), "num_attention_heads 40"),
        (QWQ, "none", Parallel(tp=5), "num_key_value_heads 8"),
        (QWQ, "fp8", Parallel(tp=16), "num_attention_heads 40"),
        # Qwen2.5-72B and 14B: refused upstream by a shape error after padding (awq_dimension_rule).
        (
            qwen2(8192, 29568, 80, 64, 8, 128, 152064),
            "awq",
            Parallel(tp=2),
            "29568",
        ),
        (
            qwen2(5120, 13824, 48, 40, 8, 128, 152064),
            "awq",
            Parallel(tp=8),
            "13824",
        ),
        (qwen2(896, 4864, 24, 14, 2, 64, 151936), "awq", Parallel(tp=2), "896"),
        (QWQ, "none", Parallel(tp=0), "tp = 0"),
        (QWQ, "none", Parallel(pp=2), "num_hidden_layers 1"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_by_the_dimension_that_does_not(
    model: ModelSpec, quantization: str, parallel: Parallel, named: str
) -> None:
    with pytest.raises(RecipeError, match=named):
        check_parallel(model, QUANTIZATIONS[quantization], parallel)


@pytest.mark.parametrize(
    ("model", "allowed"),
    [
        (QWQ, (1, 2, 4, 8)),
        (qwen2(8192, 29568, 80, 64, 8, 128, 152064), (1,)),  # Qwen2.5-72B
        (qwen2(5120, 13824, 48, 40, 8, 128, 152064), (1, 2, 4)),  # Qwen2.5-14B
        (qwen2(896, 4864, 24, 14, 2, 64, 151936), (1,)),  # Qwen2.5-0.5B
    ],
)
def test_awq_sizes_are_those_that_upstream_loaded(model: ModelSpec, allowed: tuple[int, ...]) -> None:
    assert allowed_tp(model, QUANTIZATIONS["awq"]) == allowed
