"""A model repository of TensorRT-LLM engines: ours is sound, and a trap in it is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from engines.trtllm_configs import config_of
from enginewright_trtllm.check_repository import check_repository
from enginewright_trtllm.target import TrtllmTarget
from enginewright_trtllm.triton_model import render_triton_model
from trtllm_targets import FP8, QWQ, TARGETS


def repository(folder: Path, target: TrtllmTarget = FP8) -> Path:
    for variant in target.variants:
        model = folder / target.model_name(variant)
        engine = model / "1" / "engine"
        engine.mkdir(parents=True)
        (model / "config.pbtxt").write_text(render_triton_model(target, variant, QWQ))
        (engine / "config.json").write_text(json.dumps({"pretrained_config": config_of(target, variant)}))
        for rank in range(target.world_size):
            (engine / f"rank{rank}.engine").write_bytes(b"engine")
    return folder


@pytest.mark.parametrize("name", TARGETS)
def test_the_repository_of_a_target_that_passes_has_no_findings(name: str, tmp_path: Path) -> None:
    assert check_repository(repository(tmp_path, TARGETS[name])) == ()


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "tensorrt_llm" / "config.pbtxt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "tensorrt_llm" / "1" / "engine" / name).unlink()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (edit("max_batch_size: 16", "max_batch_size: ${triton_max_batch_size}"), "template-variable"),
        (
            edit('string_value: "0.9"', 'string_value: "${kv_cache_free_gpu_mem_fraction}"'),
            "template-variable",
        ),
        (edit("inflight_fused_batching", "inflight_fused"), "batching"),
        (edit("inflight_fused_batching", "V1"), "batching"),
        (edit('key: "tokenizer_dir"', 'key: "tokenizer"'), "parameter-missing"),
        (
            edit('"medusa_choices" value { string_value: ""', '"medusa_choices" value { string_value: "{0}"'),
            "speculation",
        ),
        (
            edit(
                '"enable_chunked_context" value { string_value: "true"',
                '"enable_chunked_context" value { string_value: "false"',
            ),
            "chunked-context-off",
        ),
        (edit("decoupled: true", "decoupled: false"), "decoupled"),
        (edit("/models/tensorrt_llm/1/engine", "engines/qwq"), "engine-path"),
        (remove("config.json"), "engine-missing"),
        (remove("rank0.engine"), "engine-ranks"),
        (edit("TYPE_FP16 dims: [ -1, -1 ] }", "TYPE_FP32 dims: [ -1, -1 ] }"), "logits-datatype"),
    ],
)
def test_a_repository_with_a_trap_is_found(change: Callable[[Path], None], code: str, tmp_path: Path) -> None:
    folder = repository(tmp_path)
    change(folder)
    assert {finding.code for finding in check_repository(folder)} == {code}


def test_variables_in_comments_are_no_variables(tmp_path: Path) -> None:
    folder = repository(tmp_path)
    path = folder / "tensorrt_llm" / "config.pbtxt"
    path.write_text("# fill in ${engine_dir}\n" + path.read_text() + "# ${x}")
    assert check_repository(folder) == ()


def test_a_left_variable_is_found_in_every_model_not_only_the_c_plus_plus_one(tmp_path: Path) -> None:
    folder = repository(tmp_path)
    (folder / "ensemble").mkdir()
    (folder / "ensemble" / "config.pbtxt").write_text('name: "ensemble"\nmax_batch_size: ${n}\n')
    (finding,) = check_repository(folder)
    assert (finding.code, finding.at) == ("template-variable", "load")
    assert finding.message.startswith("ensemble/config.pbtxt")


def test_a_left_variable_is_said_to_hurt_where_it_does(tmp_path: Path) -> None:
    path = repository(tmp_path) / "tensorrt_llm" / "config.pbtxt"
    text = path.read_text()
    for old, new, at in (
        ('backend: "tensorrtllm"', 'backend: "${triton_backend}"', "load"),
        ("decoupled: true", "decoupled: ${decoupled_mode}", "load"),
        ('string_value: "0.9"', 'string_value: "${fraction}"', "run"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        places = {finding.at for finding in check_repository(tmp_path) if finding.code == "template-variable"}
        assert places == {at}
