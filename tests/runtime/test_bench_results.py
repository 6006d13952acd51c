"""What a benchmark leaves: requests, failures, files, the page, and comparisons of two of them."""

from __future__ import annotations

import csv
import errno
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enginewright_bench import (
    BenchResult,
    Lengths,
    LiveView,
    Load,
    PhysicalLimit,
    RateQuestion,
    ServiceLevel,
    Workload,
    chat_workload,
    closed_loads,
    compare_runs,
    qwen_speed_loads,
    read_result,
    write_report,
)
from enginewright_bench.prompt_file import GivenPrompt
from enginewright_errors import StageFailed, UsageError
from rich.console import Console
from runtime.bench_runs import run_loads, with_bench
from runtime.fake_triton import FakeTriton

LIMIT = PhysicalLimit(weight_bytes=90e6, kv_bytes_per_token=46e3, bandwidth=9e9, streams=2, source="the test")
FILES = {"inputs.json", "profile_export.jsonl", "profile_export_aiperf.json", "profile_export_aiperf.csv"}


def workload(**options: Any) -> Workload:
    return Workload(outputs=Lengths(3), inputs=Lengths(20, 8, "lognormal"), **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchResult, Path]:
    """Two loads, the second of whose requests 3 and 5 fail."""
    folder = tmp_path_factory.mktemp("run") / "out"
    errors = {12 + 3: "the queue is full [queue-full]", 12 + 5: "<script>alert(1)</script> [engine-failed]"}
    fake = FakeTriton(first=0.01, gap=0.005, refuse=lambda number: errors.get(number - 2))
    result = run_loads(
        folder,
        fake,
        closed_loads(workload(), [1, 2], requests=10, warmup=1),
        limit=LIMIT,
        level=ServiceLevel({"time_to_first_token": 60_000.0}),
        settings={"concurrency": "1,2"},
    )
    return result, folder


def test_failures_are_counted_by_cause_and_are_in_no_average(run: tuple[BenchResult, Path]) -> None:
    good, bad = run[0].points
    assert good.failures == []
    assert {(cause.code, cause.count) for cause in bad.failures} == {("queue-full", 1), ("engine-failed", 1)}
    assert (bad.metrics["request_count"].avg, bad.metrics["error_request_count"].avg) == (8, 2)
    assert bad.metrics["request_error_rate"].avg == 20
    assert bad.metrics["request_latency"].count == 8
    assert bad.metrics["good_request_fraction"].avg == 0.8
    assert "2 of 10 requests failed" in bad.warnings[0]


def test_a_load_of_failures_alone_has_a_result_without_latencies(tmp_path: Path) -> None:
    fake = FakeTriton(refuse=lambda number: "no [engine-failed]" if number > 1 else None)
    result = run_loads(tmp_path / "out", fake, [Load("x", workload(), 3, 0, concurrency=1)], limit=LIMIT)
    [point] = result.points
    assert point.metrics["error_request_count"].avg == 3
    assert "request_latency" not in point.metrics
    assert point.limit is None
    write_report(tmp_path / "out")


def test_answers_that_end_too_early_are_a_warning(tmp_path: Path) -> None:
    result = run_loads(tmp_path / "out", FakeTriton(short=1), [Load("x", workload(), 2, 0, concurrency=1)])
    assert result.points[0].tokens.short_answers == 2
    assert any("2 answers were shorter" in warning for warning in result.points[0].warnings)


def test_the_result_on_disk_validates_and_is_what_was_returned(run: tuple[BenchResult, Path]) -> None:
    result, folder = run
    assert read_result(folder) == result
    assert result.complete
    broken = json.loads((folder / "bench.json").read_text())
    broken["points"][0]["surprise"] = 1
    copy = folder.with_name("broken")
    copy.mkdir()
    (copy / "bench.json").write_text(json.dumps(broken))
    with pytest.raises(UsageError, match="surprise"):
        read_result(copy)


def test_every_file_says_what_it_depends_on(run: tuple[BenchResult, Path]) -> None:
    result, folder = run
    for point in result.points:
        where = folder / point.folder
        assert {path.name for path in where.iterdir()} == FILES
        assert point.limit is not None
        exported = json.loads((where / "profile_export_aiperf.json").read_text())
        lines = [json.loads(line) for line in (where / "profile_export.jsonl").read_text().splitlines()]
        for about in (exported["enginewright"], *(line["run"] for line in lines)):
            assert about["benchmark_id"] == result.benchmark_id
            assert about["seed"] == 0
            assert about["versions"]["tritonclient"]
            assert about["limit_share"] == point.limit.share
        table = list(csv.reader((where / "profile_export_aiperf.csv").read_text().splitlines()))
        assert ["benchmark_id", result.benchmark_id] in table
        assert ["limit_share", str(point.limit.share)] in table
        inputs = json.loads((where / "inputs.json").read_text())
        assert inputs["enginewright"]["seed"] == 0
        assert len(inputs["data"]) == len(lines) == 11


def test_the_limit_is_the_memory_read_for_a_step(run: tuple[BenchResult, Path]) -> None:
    [_, point] = run[0].points
    assert point.limit is not None
    context = point.metrics["input_sequence_length"].avg + 1.5
    streams = point.limit.streams
    assert 1 < streams <= 2
    step = (90e6 + streams * context * 46e3) / 9e9
    assert point.limit.tokens_per_second == pytest.approx(streams / step)
    assert point.limit.share == pytest.approx(point.metrics["output_token_throughput"].avg / (streams / step))
    assert point.limit.decode_share == pytest.approx(1000 * step / point.metrics["inter_token_latency"].p50)


def test_the_same_seed_sends_the_same_requests_and_another_seed_others(tmp_path: Path) -> None:
    def inputs(name: str, seed: int) -> bytes:
        run_loads(tmp_path / name, FakeTriton(), [Load("x", workload(), 5, 1, concurrency=2)], seed=seed)
        return (tmp_path / name / "x" / "inputs.json").read_bytes()

    first = inputs("a", 1)
    assert inputs("b", 1) == first
    assert inputs("c", 2) != first
    payloads = [session["payloads"][0] for session in json.loads(first)["data"]]
    assert len({payload["text_input"] for payload in payloads}) == 6


def test_what_is_in_inputs_json_is_what_was_sent(tmp_path: Path) -> None:
    fake = FakeTriton()
    run_loads(tmp_path / "out", fake, [Load("x", workload(), 4, 0, concurrency=1)])
    data = json.loads((tmp_path / "out" / "x" / "inputs.json").read_text())["data"]
    texts = [session["payloads"][0]["text_input"] for session in data]
    assert [inputs["text_input"][4:].decode() for inputs in fake.asked[-4:]] == texts


def test_a_rate_search_reports_every_probe(tmp_path: Path) -> None:
    """One slot of 50 ms: of twelve requests that arrive together most wait longer than 150 ms."""
    level = ServiceLevel({"request_latency": 150.0})
    question = RateQuestion(Workload(outputs=Lengths(1), inputs=Lengths(4)), 64.0, 0.9, requests=12, warmup=0)
    result = with_bench(
        tmp_path / "out",
        FakeTriton(first=0.05, slots=1),
        lambda bench: bench.search(question),
        level=level,
    )
    search = result.search
    assert search is not None
    assert [probe.label for probe in search.probes] == [point.label for point in result.points]
    assert not search.probes[0].meets
    assert search.request_rate is not None
    assert search.upper_rate is not None
    assert search.request_rate < 64
    assert search.upper_rate <= search.request_rate * 1.1
    best = next(probe for probe in search.probes if probe.request_rate == search.request_rate)
    assert best.good_fraction >= 0.9


def test_the_page_needs_nothing_else_and_shows_no_ones_markup(run: tuple[BenchResult, Path]) -> None:
    page = write_report(run[1]).read_text()
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.findall(r"<(?:img|link|iframe)|(?:src|@import)\s*[=(]", page)
    for name in ("latency", "frontier", "ttft", "timeline"):
        assert run[0].benchmark_id in (run[1] / "plots" / f"{name}.svg").read_text()


def test_plots_come_from_the_files_alone_and_are_the_same_again(run: tuple[BenchResult, Path]) -> None:
    copy = run[1].with_name("copy")
    shutil.copytree(run[1], copy)
    assert write_report(copy).read_bytes() == write_report(run[1]).read_bytes()


def slower(source: Path, target: Path, factor: Callable[[int], float]) -> None:
    """A copy whose request latencies are those of `source` times factor(number of the request)."""
    shutil.copytree(source, target)
    for path in target.glob("*/profile_export.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for number, row in enumerate(rows):
            for metric in row["metrics"].values():
                if metric["unit"] == "ms" and not isinstance(metric["value"], list):
                    metric["value"] *= factor(number)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_comparison_finds_a_difference_and_does_not_find_noise(
    run: tuple[BenchResult, Path], tmp_path: Path
) -> None:
    slower(run[1], tmp_path / "twice", lambda number: 2.0)
    slower(run[1], tmp_path / "noise", lambda number: 1.02 if number % 2 else 0.98)
    twice = {(ratio.load, ratio.figure): ratio for ratio in compare_runs(run[1], tmp_path / "twice").ratios}
    found = twice["concurrency-1", "TTFT p50, ms"]
    assert found.ratio == pytest.approx(2.0)
    assert found.low < 2.0 < found.high
    assert found.clear
    same = compare_runs(run[1], tmp_path / "noise")
    assert not any(ratio.clear for ratio in same.ratios if ratio.figure == "ITL mean, ms")
    assert same.unmatched == []
    assert same.differences == []


def test_runs_without_a_common_load_are_not_compared(run: tuple[BenchResult, Path], tmp_path: Path) -> None:
    run_loads(tmp_path / "out", FakeTriton(), [Load("other", workload(), 1, 0, concurrency=1)])
    with pytest.raises(UsageError, match="no load in common"):
        compare_runs(run[1], tmp_path / "out")


def test_qwens_table_is_run_as_far_as_the_context_allows() -> None:
    loads, skipped = qwen_speed_loads(40_960, None, None, None)
    assert [load.label for load in loads] == ["input-1", "input-6144", "input-14336", "input-30720"]
    assert all(load.workload.outputs == Lengths(2048) for load in loads)
    assert [row.label for row in skipped] == ["input-63488", "input-129024"]
    assert "63488 + 2048 tokens are more than the server's context of 40960" in skipped[0].reason
    assert qwen_speed_loads(131_072, None, None, None)[1] == []
    with pytest.raises(UsageError, match="1 \\+ 2048 tokens"):
        qwen_speed_loads(2048, None, None, None)


def test_qwens_own_figures_are_beside_those_of_its_table(tmp_path: Path) -> None:
    loads, _ = qwen_speed_loads(10_000, None, 1, 0)
    run_loads(tmp_path / "out", FakeTriton(), loads)
    page = write_report(tmp_path / "out").read_text()
    for published in ("55.83", "51.92", "49.96"):
        assert f"<td>{published}</td>" in page
    assert "<td>35.66</td>" not in page  # input-30720 was not run


def test_given_prompts_come_once_each_before_any_comes_again(tmp_path: Path) -> None:
    fake = FakeTriton()
    given = [GivenPrompt(f"prompt {number}", output_tokens=number + 1) for number in range(7)]
    load = Load("x", Workload(outputs=Lengths(1), given=given), 14, 0, concurrency=1)
    result = run_loads(tmp_path / "out", fake, [load])
    texts = [inputs["text_input"][4:].decode() for inputs in fake.asked]
    assert sorted(texts[:7]) == sorted(row.prompt for row in given)
    assert texts[:7] == texts[7:] != sorted(texts[:7])
    assert result.points[0].metrics["total_osl"].avg == 2 * sum(range(1, 8))


def test_a_chats_prompts_are_messages_of_many_lengths(tmp_path: Path) -> None:
    fake = FakeTriton(context=600)
    chat = chat_workload(Workload(outputs=Lengths(1), context=600))
    result = run_loads(tmp_path / "out", fake, closed_loads(chat, [4], 30, 0))
    assert all("messages" in inputs for inputs in fake.asked)
    lengths = result.points[0].metrics["output_sequence_length"]
    assert lengths.std is not None
    assert lengths.std > 100
    assert result.points[0].metrics["error_request_count"].avg == 0


def test_the_same_load_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the same load twice: concurrency-2, concurrency-2"):
        run_loads(tmp_path / "out", FakeTriton(), closed_loads(workload(), [2, 2], 1, 0))


def test_a_folder_with_files_is_not_written_over(run: tuple[BenchResult, Path]) -> None:
    with pytest.raises(UsageError, match="is not empty"):
        run_loads(run[1], FakeTriton(), [Load("x", workload(), 1, 0, concurrency=1)])


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nothing"])
def test_a_folder_that_cannot_be_one_is_named_before_anything_is_sent(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    fake = FakeTriton()
    with pytest.raises(UsageError, match="cannot be a folder of results"):
        run_loads(tmp_path / place, fake, [Load("x", workload(), 1, 0, concurrency=1)])
    assert not fake.asked


def test_a_disk_that_fills_up_ends_the_run_and_keeps_the_loads_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Load(name, workload(), 1, 0, concurrency=1) for name in ("first", "second"))
    write = Path.write_text

    def full(path: Path, *arguments: Any, **options: Any) -> int:
        if "second" in path.parts:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StageFailed, match="No space left on device") as caught:
        run_loads(tmp_path / "out", FakeTriton(), [first, second])
    assert caught.value.exit_code == 4
    kept = read_result(tmp_path / "out")
    assert ([point.label for point in kept.points], kept.complete) == (["first"], False)


def test_lines_tell_what_goes_on(tmp_path: Path) -> None:
    lines: list[str] = []
    fake = FakeTriton(refuse=lambda number: "full [queue-full]" if number == 4 else None)
    run_loads(tmp_path / "out", fake, [Load("x", workload(), 5, 1, concurrency=1)], say=lines.append)
    assert lines[0] == "x: making 6 prompts"
    assert lines[1].startswith("x: 4 answered, 1 failed (1 queue-full), ")
    assert lines[2] == "x: warning: 1 of 5 requests failed: the figures are those of the others"


def test_a_terminal_shows_a_bar_that_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(LiveView, "interval", 0.0)
    with LiveView(Console(file=screen, force_terminal=True, width=120, highlight=False)) as view:
        run_loads(tmp_path / "out", FakeTriton(), [Load("x", workload(), 5, 1, concurrency=1)], observer=view)
    text = screen.getvalue()
    assert "x: 0/1 warm-up" in text
    assert "x: 5/5 done" in text
    assert "TTFT p50" in text
    assert "x: 5 answered" in text


def test_the_benchmark_knows_the_wire_alone() -> None:
    code = """if True:
        import sys
        import enginewright_bench
        print(*{name.partition(".")[0] for name in sys.modules})
    """
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {name for name in loaded.stdout.split() if name.startswith("enginewright")}
    assert ours == {"enginewright_bench", "enginewright_client", "enginewright_errors"}
    assert not {"matplotlib", "tokenizers", "torch", "rich"} & set(loaded.stdout.split())
