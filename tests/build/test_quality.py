"""The parts of a quality report by themselves: figures, intervals, loops, choices, texts, the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from enginewright.agreement import WORST
from enginewright.quality.answers import compare_answers
from enginewright.quality.bootstrap import bootstrap, bootstrap_mean
from enginewright.quality.choices import ChoiceScores
from enginewright.quality.figures import Figure, QualityReport, TextFigures, TextsFigures, read_quality_report
from enginewright.quality.gate import GateBounds, check_gate, gate_bounds
from enginewright.quality.loops import has_loop
from enginewright.quality.positions import KL, NLL, TOP1, TOP5, compare_positions
from enginewright.quality.problems import last_number, problem_figures
from enginewright.quality.tasks import read_tasks
from enginewright.quality.texts import ChoiceItem, ProblemItem, load_report_texts
from enginewright.recipe import GateRecipe, ReportRecipe
from enginewright_errors import GateFailed, RecipeError, UsageError
from hypothesis import given
from hypothesis import strategies as st


def logits(seed: int, rows: int = 70, vocab: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (rows, vocab)).astype(np.float32)


def test_the_columns_of_a_comparison_are_those_of_torch() -> None:
    import torch

    wanted, got = logits(1), logits(1) + logits(2)
    targets = np.arange(70, dtype=np.int32) % 40
    rows = compare_positions(wanted, {"engine": got}, targets)["engine"]
    p, q = (torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (wanted, got))
    assert rows[:, KL] == pytest.approx((p.exp() * (p - q)).sum(-1).numpy(), rel=1e-9)
    assert rows[:, NLL] == pytest.approx(-q[torch.arange(70), torch.from_numpy(targets).long()].numpy())
    assert (rows[:, TOP1] == (wanted.argmax(1) == got.argmax(1))).all()
    best = [
        set(x.topk(5).indices.tolist()) & set(y.topk(5).indices.tolist()) for x, y in zip(p, q, strict=True)
    ]
    assert rows[:, TOP5] == pytest.approx([len(shared) / 5 for shared in best])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_the_worst_there_is(bad: float) -> None:
    spoilt = logits(1)
    spoilt[33, 7] = bad
    rows = compare_positions(logits(1), {"engine": spoilt}, np.zeros(70, np.int32))["engine"]
    assert rows[33].tolist()[1:] == [WORST, WORST, 0.0, 0.0]
    assert rows[:33, KL].max() == 0.0


def test_both_ways_to_an_interval_agree_and_hold_the_estimate() -> None:
    values = np.random.default_rng(3).gamma(0.3, 1.0, 400)
    blocks = [values[start : start + 30] for start in range(0, 400, 30)]
    quick, slow = bootstrap_mean(blocks), bootstrap(blocks, lambda rows: float(rows.mean()))
    assert (quick.value, quick.low, quick.high) == pytest.approx((slow.value, slow.low, slow.high), rel=1e-8)
    assert quick.value == pytest.approx(values.mean())
    assert quick.low < quick.value < quick.high
    more = bootstrap_mean(blocks * 4)
    assert more.high - more.low < 0.7 * (quick.high - quick.low), "more text has to promise more"


@given(
    block=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    before=st.lists(st.integers(100, 10_000), unique=True, max_size=40),
)
def test_a_block_that_comes_three_times_in_a_row_is_a_loop(block: list[int], before: list[int]) -> None:
    repeats = max(3, -(-12 // len(block)))
    assert has_loop([*before, *block * repeats])


@given(st.lists(st.integers(0, 10_000), unique=True, max_size=200))
def test_a_text_in_which_nothing_comes_twice_is_no_loop(text: list[int]) -> None:
    assert not has_loop(text)
    assert not has_loop([*text, *text]), "twice is emphasis"


def test_a_short_repetition_is_language() -> None:
    assert not has_loop([1, 2, 7, 7, 7, 7, 3, 4])


def test_answers_are_compared_token_by_token() -> None:
    original, engine = ((1, 2, 3), (4, 5), (6,)), ((1, 2, 9), (4, 5), (7,))
    figures = compare_answers({"original": original, "checkpoint": original, "engine": engine}, 3)
    assert figures is not None and figures.engine is not None and figures.checkpoint is not None
    found, same = figures.engine, figures.checkpoint
    assert found.first_divergence is not None and found.identical is not None
    assert found.first_divergence.value == pytest.approx((2 + 2 + 0) / 3)
    assert found.identical.value == pytest.approx(1 / 3)
    assert same.identical == Figure(1.0, 1.0, 1.0)
    alone = compare_answers({"engine": [(1,) * 12, (2, 3)]}, 12)
    assert alone is not None and alone.engine is not None and compare_answers({"engine": []}, 12) is None
    assert (alone.original_loop_rate, alone.checkpoint, alone.engine.identical) == (None, None, None)
    assert alone.engine.loop_rate.value == 0.5


def test_the_choice_with_the_best_log_probability_a_byte_is_the_answer() -> None:
    """Without the division a long choice could never win."""
    item = ChoiceItem(
        task="length",
        prompt=np.array([1], np.int32),
        choices=(np.array([5, 6, 7, 8], np.int32), np.array([9], np.int32)),
        sizes=(16, 2),
        answer=0,
    )
    scores = ChoiceScores([item, replace(item, task="other", answer=1), replace(item, task="other")])
    flat = np.zeros((4, 10), np.float32)
    for choice in 3 * item.choices:
        scores.add({"original": flat[: len(choice)]}, choice)
    length, other = scores.figures()
    assert (length.task, length.items, length.original) == ("length", 1, Figure(1.0, 1.0, 1.0))
    assert (other.task, other.items, other.original) == ("other", 2, Figure(0.5, 0.0, 1.0))
    assert length.engine is None
    assert ChoiceScores([]).figures() == ()


def test_the_last_number_of_an_answer_is_its_result() -> None:
    assert last_number("6 x 7 = 42.") == 42
    assert last_number("It costs 1,234.50 euros, so -3 are left: -1,000") == -1000
    assert last_number("I do not know.") is None
    problems = [ProblemItem("sums", np.array([1], np.int32), 5.0)] * 3
    (figures,) = problem_figures(problems, {"engine": ["2 and 3 make 5.", "4", ""], "original": ["5"] * 3})
    assert (figures.task, figures.items, figures.checkpoint) == ("sums", 3, None)
    assert figures.engine is not None and figures.engine.value == pytest.approx(1 / 3)
    assert figures.original == Figure(1.0, 1.0, 1.0)


def test_gsm8k_lines_are_word_problems(tmp_path: Path) -> None:
    lines = [
        {"question": "How many?", "answer": "First <<2*600=1200>>1200.\n#### 1,200"},
        {"question": "How much?", "answer": 2.5},
        {"prompt": "Up and", "choices": ["down", "so on"], "answer": 1},
    ]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tasks = read_tasks({"mixed": tmp_path / "mixed.jsonl"})
    assert [problem.answer for problem in tasks.problems["mixed"]] == [1200.0, 2.5]
    assert [item.choices for item in tasks.choices["mixed"]] == [("down", "so on")]


def figure(value: float) -> Figure:
    return Figure(value, value, value)


def report(kl: float = 0.0, top1: float = 1.0, ratio: float = 1.0) -> QualityReport:
    text = TextFigures(
        figure(10 * ratio), figure(ratio), figure(kl), figure(kl), figure(top1), figure(top1), (0.0, kl)
    )
    texts = TextsFigures(10, figure(10.0), None, text)
    return QualityReport(texts, "", None, None, None, (), (), "")


def test_every_bound_that_is_broken_is_named_with_its_number() -> None:
    bounds = GateBounds(0.05, 0.92, 1.05)
    check_gate(report(0.05, 0.92, 1.05), bounds)
    with pytest.raises(GateFailed) as caught:
        check_gate(report(0.06, 0.91, 1.06), bounds)
    assert caught.value.exit_code == 5
    assert caught.value.message == (
        "report: mean KL from the original is 0.06, it has to be at most 0.05; "
        "top-1 agreement is 0.91, it has to be at least 0.92; "
        "perplexity over the original's is 1.06, it has to be at most 1.05"
    )
    for good in (report(0.06), report(top1=0.9), report(ratio=1.06)):
        with pytest.raises(GateFailed):
            check_gate(good, bounds)
    with pytest.raises(GateFailed):
        check_gate(report(kl=float("nan")), bounds)


def test_a_model_without_an_engine_is_judged_by_its_checkpoint() -> None:
    made = report(0.2)
    assert made.held_out is not None
    texts = replace(made.held_out, checkpoint=made.held_out.engine, engine=None)
    with pytest.raises(GateFailed):
        check_gate(replace(made, held_out=texts), GateBounds(0.1, 0.0, 2.0))


def test_bounds_are_looser_for_smaller_models_and_the_recipes_own_stand_above() -> None:
    for quantization in ("int4_awq", "fp8", "int8_sq"):
        large, middle, small = (
            gate_bounds(GateRecipe(), quantization, size) for size in (32 * 10**9, 3 * 10**9, 135 * 10**6)
        )
        assert large.max_kl < middle.max_kl < small.max_kl
        assert large.min_top1 > middle.min_top1 > small.min_top1
        assert large.max_perplexity_ratio < middle.max_perplexity_ratio < small.max_perplexity_ratio
    assert gate_bounds(GateRecipe(), "int4_awq", 7 * 10**9) == GateBounds(0.05, 0.92, 1.05)
    assert gate_bounds(GateRecipe(), "fp8", 7 * 10**9) == GateBounds(0.01, 0.97, 1.01)
    own = GateRecipe(max_kl=0.3, min_top1=0.0)
    assert gate_bounds(own, "fp8", 7 * 10**9) == GateBounds(0.3, 0.0, 1.01)


def test_a_report_survives_json_and_a_damaged_one_is_named() -> None:
    made = report(0.25, 0.75, 1.25)
    again = json.loads(json.dumps(made.as_json()))
    assert read_quality_report(again) == made
    assert made.summary == "KL 0.25, top-1 75.0%, perplexity 1.25x"
    del again["held_out"]["engine"]["top1"]
    with pytest.raises(UsageError) as caught:
        read_quality_report(again)
    assert "held_out.engine.top1" in caught.value.message


def test_the_texts_are_the_same_each_time_and_never_longer_than_the_engine(
    tiny: Callable[..., Path],
) -> None:
    recipe = ReportRecipe(samples=2, length=64, prompts=3, items=4)
    made, again = (load_report_texts(recipe, tiny(), 256) for _ in range(2))
    assert made.sha256 == again.sha256 != load_report_texts(recipe, tiny(), 48).sha256
    assert made.held_out.shape == (2, 64) and len(made.prompts) == 3 and len(made.items) == 4
    short = load_report_texts(recipe, tiny(), 32)
    assert short.held_out.shape == (2, 32)
    assert max(map(len, short.prompts)) <= 16
    assert max(len(item.prompt) + max(map(len, item.choices)) for item in short.items) <= 32


def test_own_texts_are_read_and_what_is_wrong_in_them_is_named(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "text.jsonl").write_text(json.dumps({"body": "A very quiet afternoon. " * 60}))
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "Up and", "choices": ["down", "so on"], "answer": 1}\n')
    own = ReportRecipe(
        data=str(tmp_path / "text.jsonl"), field="body", samples=1, length=32, prompts=0,
        tasks=str(tmp_path / "tasks.jsonl"), items=1,
    )  # fmt: skip
    texts = load_report_texts(own, tiny(), 256)
    assert texts.items[0].answer == 1 and texts.prompts == ()
    for changes, says in (
        ({"items": 2}, "report.items: tasks: 2 are asked for, there are 1"),
        ({"tasks": "pypi:none==1.0"}, "report.tasks: pypi:none==1.0 is not a package that is known"),
        ({"samples": 500}, "report.samples: text.jsonl gives"),
        ({"tasks": str(tmp_path / "none.jsonl")}, "none.jsonl cannot be read: No such file"),
        ({"data": str(tmp_path / "none.txt")}, "report.data"),
    ):
        with pytest.raises(RecipeError) as caught:
            load_report_texts(own.model_copy(update=changes), tiny(), 256)
        assert says in caught.value.message
    for line in (
        "{",
        "[]",
        "3",
        '{"question": "a"}',
        '{"question": "a", "answer": "none"}',
        '{"question": 1, "answer": 2}',
        '{"question": "a", "answer": true}',
        '{"prompt": "a", "choices": ["b"], "answer": 0}',
        '{"prompt": "a", "choices": ["b", "c"], "answer": 2}',
        '{"prompt": "a", "choices": ["b", "c"], "answer": true}',
        '{"prompt": "a", "choices": ["b", 3], "answer": 0}',
        '{"ctx": "a", "activity_label": "b", "endings": ["c", "d"], "label": ""}',
        '{"question": "a", "mc1_targets": {"b": 1, "c": 1}}',
        '{"question": "a", "mc1_targets": [1, 0]}',
        '{"question": "a", "answer": "Infinity"}',
    ):
        (tmp_path / "tasks.jsonl").write_text(f"\n{line}\n")
        with pytest.raises(RecipeError, match="line 2 is no item"):
            load_report_texts(own, tiny(), 256)
