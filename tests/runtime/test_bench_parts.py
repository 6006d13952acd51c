"""The parts of a benchmark that need no server: lengths, arrivals, prompts, levels, limits, the search."""

from __future__ import annotations

import asyncio
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from enginewright.commands.bench_options import BenchFlags
from enginewright_bench import Lengths, parse_service_level, read_limit, read_prompts
from enginewright_bench.arrivals import poisson_arrivals
from enginewright_bench.search_rate import search_rate
from enginewright_bench.words import WORDS
from enginewright_bench.write_prompt import PromptWriter
from enginewright_errors import UsageError
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize("shape", ["normal", "lognormal"])
def test_drawn_lengths_have_the_mean_and_the_deviation_asked_for(shape: str) -> None:
    drawn = Lengths(500, 100, shape).draw(np.random.default_rng(0), 20_000)  # type: ignore[arg-type]
    assert np.mean(drawn) == pytest.approx(500, rel=0.01)
    assert np.std(drawn) == pytest.approx(100, rel=0.02)


def test_lengths_are_never_below_one_token() -> None:
    assert min(Lengths(2, 50).draw(np.random.default_rng(0), 1000)) == 1
    with pytest.raises(UsageError, match="0 tokens"):
        Lengths(0)


def test_arrivals_are_poisson_and_follow_their_seed() -> None:
    gaps = np.diff(poisson_arrivals(4.0, 20_000, (1, 2)))
    assert gaps.mean() == pytest.approx(0.25, rel=0.02)
    assert gaps.std() == pytest.approx(0.25, rel=0.03)
    assert np.array_equal(poisson_arrivals(4.0, 9, (1, 2)), poisson_arrivals(4.0, 9, (1, 2)))
    assert not np.array_equal(poisson_arrivals(4.0, 9, (1, 2)), poisson_arrivals(4.0, 9, (1, 3)))


@given(st.floats(0.01, 10_000), st.floats(0.01, 10_000))
def test_the_search_brackets_any_capacity(capacity: float, start: float) -> None:
    probes = []

    async def measure(rate: float) -> bool:
        probes.append(rate)
        return rate <= capacity

    low, high = asyncio.run(search_rate(measure, start))
    assert len(probes) <= 14
    assert low is None or low <= capacity
    assert high is None or high > capacity
    if len(probes) < 14:
        assert low is not None
        assert high is not None
        assert high / low <= 1.1


@given(st.integers(1, 400), st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(0, 30))
def test_a_prompt_has_the_tokens_asked_for_whatever_the_tokenizer(
    tokens: int, costs: list[int], around: int
) -> None:
    """Word n costs costs[n mod len(costs)] tokens, a letter one, what is around the prompt `around`."""
    price = {word: costs[number % len(costs)] for number, word in enumerate(WORDS)}
    counted = []

    async def count(text: str) -> int:
        counted.append(text)
        return around + sum(price.get(word, len(word)) for word in text.split())

    text = asyncio.run(PromptWriter(count).write(np.random.default_rng(0), tokens))
    length = asyncio.run(count(text))
    least = around + min(price.values())
    assert length == tokens or (tokens < around + max(costs) and length >= least)
    assert len(counted) < 200


def test_words_of_one_token_each_are_counted_twice_in_all() -> None:
    counted = []

    async def count(text: str) -> int:
        counted.append(text)
        return 3 + len(text.split())

    writer = PromptWriter(count)
    rng = np.random.default_rng(0)
    texts = [asyncio.run(writer.write(rng, 100)) for _ in range(20)]
    assert len(counted) == 2
    assert {len(text.split()) for text in texts} == {97}


def test_a_service_level_reads_its_units_and_names_what_is_wrong() -> None:
    level = parse_service_level("ttft:500ms, itl:50ms,latency:1.5s")
    assert level.bounds == {
        "time_to_first_token": 500.0,
        "inter_token_latency": 50.0,
        "request_latency": 1500.0,
    }
    assert level.is_met({"time_to_first_token": 500.0, "request_latency": 1.0})
    assert not level.is_met({"time_to_first_token": 500.1, "request_latency": 1.0})
    assert not level.is_met({})
    for text, part in (("ttft", "'ttft'"), ("ttft:5", "'ttft:5'"), ("itl:5ms,tpot:1s", "'tpot:1s'")):
        with pytest.raises(UsageError, match=part):
            parse_service_level(text)


def test_prompts_are_read_as_texts_or_messages(tmp_path: Path) -> None:
    plain = tmp_path / "prompts.txt"
    plain.write_text('first\n\n{"text_input": "not JSON here"}\n')
    assert [row.prompt for row in read_prompts(plain)] == ["first", '{"text_input": "not JSON here"}']
    rows = tmp_path / "prompts.jsonl"
    messages = [{"role": "user", "content": "hi"}]
    rows.write_text(
        "\n".join(
            [
                json.dumps({"prompt": "a", "output_tokens": 7}),
                json.dumps({"messages": messages}),
                json.dumps("b"),
            ]
        )
    )
    read = read_prompts(rows)
    assert [(row.prompt, row.output_tokens) for row in read] == [("a", 7), (messages, None), ("b", None)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is not JSON"),
        ("3", "is int"),
        ("{}", "has neither"),
        ('{"text": ""}', "has neither"),
        ('{"messages": ["hi"]}', "has neither"),
        ('{"text": "a", "max_tokens": 0}', "wants 0 output tokens"),
        ('{"text": "a", "max_tokens": true}', "wants True output tokens"),
    ],
)
def test_a_wrong_line_of_prompts_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(UsageError, match=f"prompts.jsonl:2: {problem}"):
        read_prompts(path)


def test_an_empty_file_or_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UsageError, match=r"empty\.txt is empty"):
        read_prompts(tmp_path / "empty.txt")
    with pytest.raises(UsageError, match="cannot be read"):
        read_prompts(tmp_path / "absent.txt")


def test_gpus_of_this_machine_are_not_judged_by_its_main_memory(tmp_path: Path) -> None:
    sizes = {"step_bytes": 90, "kv_bytes_per_token": 4, "sequences": 8}
    manifest = {"target": "trtllm", "plan": {"sizes": sizes, "read_bandwidth": 360.0}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    nothing = dict.fromkeys(item.name for item in fields(BenchFlags))
    limit = BenchFlags(**{**nothing, "server": "127.0.0.1:8001", "repository": tmp_path}).limit()
    assert not isinstance(limit, str)
    assert limit.step_seconds(1, 0) == 90 / 360


def test_a_limit_that_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    assert "has no sizes" in str(read_limit(tmp_path, (1e9, "given")))
    sizes = {"step_bytes": 90, "kv_bytes_per_token": 4, "sequences": 8}
    manifest = {"target": "onnx", "plan": {"sizes": sizes}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert "give --memory-bandwidth" in str(read_limit(tmp_path, None))
    limit = read_limit(tmp_path, (180.0, "given"))
    assert not isinstance(limit, str)
    assert limit.step_seconds(2, 10) == (90 + 2 * 10 * 4) / 180
    on_gpus = {"target": "trtllm", "plan": {"sizes": sizes, "read_bandwidth": 360.0}}
    (tmp_path / "manifest.json").write_text(json.dumps(on_gpus))
    limit = read_limit(tmp_path, None)
    assert not isinstance(limit, str)
    assert limit.step_seconds(2, 10) == (90 + 2 * 10 * 4) / 360
