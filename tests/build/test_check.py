"""`enginewright check`: QwQ-32B's recipes hold without a GPU or a network; what breaks one is one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from enginewright.load_recipe import load_trtllm_recipe
from enginewright.trtllm_recipe import trtllm_target
from trtllm_targets import TARGETS

ENGINEWRIGHT = Path(sys.executable).with_name("enginewright")
RECIPES = ["qwq-32b-fp8-h100", "qwq-32b-fp8-tp2", "qwq-32b-int4-awq-24gb", "qwq-32b-int4-awq-yarn"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ENGINEWRIGHT, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", RECIPES)
def test_a_bundled_recipe_passes_and_is_the_target_whose_figures_are_tested(name: str) -> None:
    checked = run("check", name)
    assert checked.returncode == 0, checked.stderr
    assert "preflight: no findings" in checked.stdout
    assert trtllm_target(load_trtllm_recipe(name)) == TARGETS[name]


def test_json_ends_with_the_plan_the_findings_and_the_flags() -> None:
    last = json.loads(run("check", RECIPES[0], "--json").stdout.splitlines()[-1])
    assert last["ok"] is True
    assert last["findings"] == []
    assert last["plan"]["native: KV tokens"].startswith("132,768")
    assert {"flag": "--max_seq_len", "value": "32768"}.items() <= last["trtllm_build"][4].items()


@pytest.mark.parametrize(
    ("settings", "code", "message", "hint"),
    [
        (("trtllm.tp=3", "trtllm.gpus=3"), 2, "num_attention_heads 40", "1, 2, 4, 8"),
        (("quantization.format=int4_awq", "trtllm.kv_cache=fp8"), 2, "KV", ""),
        (("trtllm.gpu=L40S-48",), 3, "the KV cache holds", "max_seq_len"),
        (("trtllm.gpu=H10",), 2, "'H10' is not in the table", "Did you mean H100-80?"),
        (("trtllm.gpu=L4",), 3, "weights 34.3 GB", "trtllm.tp: 4 on 4 x L4-24"),
        (("trtllm.tp=0",), 2, "--set trtllm.tp: trtllm.tp is 0", "from 1 to 64"),
        (("trtllm.gppu=x",), 2, "trtllm.gppu is not a known field", "trtllm.gpu"),
        (("checkpoint.source=org/other",), 2, "org/other is not in the local cache", "a folder that holds"),
    ],
)
def test_what_is_wrong_is_one_line_with_a_remedy(
    settings: tuple[str, ...], code: int, message: str, hint: str
) -> None:
    checked = run("check", RECIPES[0], *(part for text in settings for part in ("--set", text)))
    assert checked.returncode == code
    error, remedy = checked.stderr.splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert remedy.startswith("hint: ")
    assert hint in remedy


def test_a_checkpoint_folder_is_checked_by_its_own_config(tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny(arch="qwen2"), folder)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    checked = run("check", folder, "--set", "trtllm.max_seq_len=512", "--set", "quantization.format=none")
    assert checked.returncode == 0, checked.stderr
    assert "KV cache" in checked.stdout


def test_check_names_the_command_for_a_recipe_of_the_other_target() -> None:
    checked = run("check", "smollm2-135m-fp8")
    assert checked.returncode == 2
    assert "enginewright plan" in checked.stderr
