"""`enginewright report --lm-eval`: lm-evaluation-harness on the engine and on the checkpoints behind it."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from build_runs import Run
from cli_call import call_cli
from enginewright.quality.exact_engine import exact_engine
from enginewright.reference_logits import ReferenceSequence, reference_logits
from enginewright.torch_session import torch_session
from enginewright_front.prompt import PromptEncoder

Command = Callable[..., tuple[int, str, str]]

# A task as its users write one, with its data beside it.
TASK = """
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
output_type: OUTPUT
test_split: test
doc_to_text: "{{question}}"
doc_to_target: TARGET
"""
CHOICE = TASK.replace("OUTPUT", "multiple_choice").replace("TARGET", "label")
CHOICE += "doc_to_choice: choices\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n"
WRITE = TASK.replace("OUTPUT", "generate_until").replace("TARGET", "answer").replace("colours", "written")
WRITE += 'generation_kwargs: {until: ["."], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]\n'
ITEMS = [
    {"question": "The sky is", "choices": ["blue", "very loud"], "label": 0, "answer": "blue"},
    {"question": "Grass is", "choices": ["a number", "green"], "label": 1, "answer": "green"},
    {"question": "Snow is", "choices": ["white", "black"], "label": 0, "answer": "white"},
]


@pytest.fixture(scope="module")
def source(tiny: Callable[..., Path]) -> Path:
    return tiny(arch="qwen2", hidden=64, intermediate=128, layers=1, heads=2, kv_heads=1)


@pytest.fixture(scope="module")
def build(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Run(tmp_path_factory.mktemp("lm-eval"))
    run(source)
    return run.out


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], build: Path) -> Command:
    """`run("report", ...)`: (exit code, stdout, stderr)."""
    monkeypatch.setenv("ENGINEWRIGHT_CACHE", str(build.parent / "cache"))

    def call(*arguments: object) -> tuple[int, str, str]:
        return call_cli(monkeypatch, capsys, *arguments)

    return call


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm_eval is installed")
def test_without_the_harness_the_command_says_how_to_get_it(run: Command, build: Path) -> None:
    code, _, errors = run("report", build, "--lm-eval", "hellaswag")
    assert code == 2
    assert "--lm-eval needs lm-evaluation-harness" in errors and "pip install 'enginewright[eval]'" in errors


def test_the_adapters_numbers_are_those_of_transformers(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is 480 MB and not among the tests' packages")
    from enginewright.quality.lm_eval_model import EngineLM

    encoder, pairs = PromptEncoder(source), [("A quiet", " afternoon"), ("The end ", "of it"), ("", "Alone")]
    with exact_engine(source, tmp_path / "engine", max_seq_len=64, slots=1, threads=1) as session:
        model = EngineLM(session, encoder)
        found = model.loglikelihood([SimpleNamespace(args=pair) for pair in pairs])
        long = "many words in a row " * 40
        (rolled,) = model.loglikelihood_rolling([SimpleNamespace(args=(long,))])
    wanted = []
    with torch_session(1):
        for context, text in pairs:
            kept = context.rstrip()
            head = encoder.encode_text(kept) if kept else [session.config.eos_token_ids[0]]
            ids = encoder.encode_text(context + text) if kept else [*head, *encoder.encode_output(text)]
            (logits,) = reference_logits(source, [ReferenceSequence(np.array(ids[:-1], np.int32))])
            logits = logits.astype(np.float64)
            probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            at = np.arange(len(head) - 1, len(ids) - 1)
            greedy = bool((probabilities[at].argmax(1) == np.array(ids)[at + 1]).all())
            wanted.append((probabilities[at, np.array(ids)[at + 1]].sum(), greedy))
    for got, want in zip(found, wanted, strict=True):
        assert got == (pytest.approx(want[0], rel=1e-4), want[1])
    tokens = len(encoder.encode_output(long))
    assert tokens > 64 and -20 * tokens < rolled < -tokens, "every token of every window counts"


def test_a_task_of_the_users_own_is_asked_of_every_model(
    run: Command, build: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is 480 MB and not among the tests' packages")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    data = tmp_path / "items.jsonl"
    data.write_text("\n".join(map(json.dumps, ITEMS)))
    for name, text in (("colours", CHOICE), ("written", WRITE)):
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(data)))
    code, out, errors = run(
        "report", build, "--lm-eval", "colours,written", "--lm-eval-include", tmp_path,
        "--original", source, "--json",
    )  # fmt: skip
    assert code == 0, errors
    rows: list[dict[str, Any]] = json.loads(out.splitlines()[-1])["lm_eval"]
    assert {(row["task"], row["metric"]) for row in rows} >= {
        ("colours", "acc"), ("colours", "acc_norm"), ("written", "exact_match"),
    }  # fmt: skip
    for row in rows:
        assert list(row["models"]) == ["original", "quantized", "engine"]
        assert row["models"]["original"] == row["models"]["quantized"], "nothing was quantized"
    code, out, _ = run("report", build, "--lm-eval", "colours", "--lm-eval-include", tmp_path)
    assert code == 0 and "lm-evaluation-harness" in out and "acc_norm" in out
    code, _, errors = run("report", build, "--lm-eval", "no_such_task")
    assert code == 2 and "no_such_task is no task of lm_eval" in errors
