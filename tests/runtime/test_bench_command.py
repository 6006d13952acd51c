"""`enginewright bench` as a process, against a real Triton with a real tiny engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginewright_bench import read_result
from enginewright_bench.server_metrics import counters
from enginewright_client import SamplingParams, TritonClient
from enginewright_front.prompt import PromptEncoder
from enginewright_front.repository import write_repository
from enginewright_onnx import EngineOptions, write_engine
from enginewright_serve import TritonServer
from package_manifest import write_manifest
from runtime.commands import Command
from runtime.conftest import eventually

SMALL = ("--input-tokens", "24", "--output-tokens", "8")


@pytest.fixture(scope="module")
def repository(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint, folder = tiny(arch="qwen2"), tmp_path_factory.mktemp("packaged")
    engine = tmp_path_factory.mktemp("engine") / "engine"
    options = EngineOptions(
        max_seq_len=256, max_batch_size=4, accuracy_level=0, lm_head="fp32", fp8_compute="fp32", threads=1
    )
    write_engine(checkpoint, engine, options)
    write_repository(folder, engine=engine, checkpoint=checkpoint, name="tiny", max_queue=32)
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository) as server:
        yield server


def bench(folder: Path, *arguments: str | Path) -> tuple[int, list[dict[str, Any]], str]:
    """(exit code, the JSON lines, stderr)."""
    with Command(folder, "bench", *arguments, "--json") as command:
        code = command.code()
        return code, [json.loads(line) for line in command.text().splitlines()], command.errors()


@pytest.fixture(scope="module")
def swept(
    server: TritonServer, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """(folder, JSON lines) of a sweep with everything that can be checked."""
    folder = tmp_path_factory.mktemp("swept")
    code, lines, errors = bench(
        folder,
        *("--server", server.grpc_address, "--metrics", server.metrics_address),
        *("--concurrency", "1,3", "--requests", "6", *SMALL),
        *("--tokenizer", repository, "--out", "out"),
    )
    assert code == 0, errors
    return folder / "out", lines


def test_totals_are_what_triton_itself_counted(swept: tuple[Path, list[dict[str, Any]]]) -> None:
    for point, users in zip(read_result(swept[0]).points, (1, 3), strict=True):
        totals = point.server_totals
        assert totals is not None
        assert totals.counted["requests"] == totals.counted["triton_requests"] == 6 + users
        assert totals.counted["input_tokens"] == 24 * (6 + users)
        assert totals.counted["output_tokens"] == 8 * (6 + users)
        assert totals.agrees
        # Random weights write half characters, which are other tokens when they are encoded again.
        assert all("encoded again" in warning for warning in point.warnings)


def test_prompts_have_the_tokens_asked_for_by_the_tokenizer_itself(
    swept: tuple[Path, list[dict[str, Any]]], repository: Path
) -> None:
    encoder = PromptEncoder(repository / "llm" / "1" / "checkpoint")
    inputs = json.loads((swept[0] / "concurrency-3" / "inputs.json").read_text())
    texts = [session["payloads"][0]["text_input"] for session in inputs["data"]]
    assert len(texts) == 9
    assert {len(encoder.encode_text(text)) for text in texts} == {24}


def test_the_supervisors_probes_are_not_taken_for_anybodys_requests(server: TritonServer) -> None:
    with TritonClient(server.grpc_address, metrics_address=server.metrics_address) as client:
        client.generate("a", SamplingParams(max_tokens=1))
        before = client.metrics().value("enginewright_probes_total") or 0
        settled = counters(client.metrics())
        probe = server.open_probe()
        assert probe.ask(30).outcome == "works"
        probe.close()
        eventually(lambda: client.metrics().value("enginewright_probes_total") == before + 1, "not counted")
        eventually(lambda: counters(client.metrics()) == settled, "counted as a request")


def test_the_last_line_is_the_result(swept: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, lines = swept
    assert lines[-1]["event"] == "result"
    assert lines[-1]["ok"]
    assert lines[-1]["points"] == json.loads((folder / "bench.json").read_text())["points"]
    assert (folder / "report.html").stat().st_size > 10_000


def test_without_a_tokenizer_the_server_counts_the_prompts(server: TritonServer, tmp_path: Path) -> None:
    code, lines, errors = bench(
        tmp_path,
        *("--server", server.grpc_address, "--chat", "--concurrency", "2", "--requests", "3"),
        *("--input-tokens", "64", "--output-tokens", "4", "--out", "out"),
    )
    assert code == 0, errors
    [point] = lines[-1]["points"]
    assert point["tokens"]["input_mismatches"] == 0
    assert point["metrics"]["input_sequence_length"]["avg"] == 64


def test_report_and_compare_work_on_what_was_written(
    swept: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder = swept[0]
    (folder / "report.html").unlink()
    code, _, errors = bench(tmp_path, "report", folder)
    assert code == 0, errors
    assert (folder / "report.html").exists()
    code, lines, errors = bench(tmp_path, "compare", folder, folder)
    assert code == 0, errors
    assert {ratio["ratio"] for ratio in lines[-1]["ratios"]} == {1.0}
    assert not any(ratio["clear"] for ratio in lines[-1]["ratios"])


def test_a_table_without_json(server: TritonServer, tmp_path: Path) -> None:
    with Command(
        tmp_path,
        *("bench", "--server", server.grpc_address, "--request-rate", "20", "--requests", "5", *SMALL),
        *("--slo", "ttft:60s", "--out", "out"),
    ) as command:
        assert command.code() == 0, command.errors()
        text = command.text()
    assert "rate-20: making 7 prompts" in text
    assert "100% within the service level" in text
    assert "limit unknown: give --repository" in text
    assert text.splitlines()[-1] == "written to out"


def test_ctrl_c_keeps_the_loads_that_are_complete(server: TritonServer, tmp_path: Path) -> None:
    with Command(
        tmp_path,
        *("bench", "--server", server.grpc_address, "--concurrency", "1,2", "--requests", "100", *SMALL),
        *("--out", "out"),
    ) as command:
        command.prints("concurrency-2: making")
        command.interrupt()
        assert command.code() == 130
        assert "what was complete is kept" in command.errors()
    kept = read_result(tmp_path / "out")
    assert [point.label for point in kept.points] == ["concurrency-1"]
    assert not kept.complete


def test_a_server_that_answers_nothing_is_a_failure(server: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("word " * 3000)
    code, lines, errors = bench(
        tmp_path, "--server", server.grpc_address, "--prompts", "long.txt", "--requests", "2", "--out", "out"
    )
    assert code == 4
    assert "no request was answered" in errors
    assert lines[-1]["error"]["code"] == "nothing-answered"
    assert read_result(tmp_path / "out").points[0].metrics["error_request_count"].avg == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--concurrency", "1", "--request-rate", "1"), "exclude each other"),
        (("--concurrency", "two"), "no list of numbers"),
        (("--concurrency", "0", *SMALL), "--concurrency is 0"),
        (("--request-rate", "-1", *SMALL), "--request-rate is -1"),
        (("--request-rate", "nan", *SMALL), "--request-rate is nan"),
        (("--request-rate", "1,inf", *SMALL), "--request-rate is inf"),
        (("--search-rate", "--slo", "ttft:1s", "--request-rate", "nan", *SMALL), "--request-rate is nan"),
        (("--search-rate",), "needs a service level"),
        (("--slo", "speed:1s"), "'speed:1s' is no bound"),
        (("--input-tokens", "300"), "300 + 128 tokens are more than the server's context of 256"),
        (("--profile", "qwen-speed"), "1 + 2048 tokens are more than"),
        (("--profile", "qwen-speed", "--chat"), "--profile qwen-speed has no place for --chat"),
        (("--profile", "chat", "--input-tokens", "9"), "has no place for --input-tokens"),
        (("--weight-bytes", "1GB"), "--weight-bytes needs --memory-bandwidth"),
        (("--tokenizer", "absent"), "absent has no tokenizer.json"),
    ],
)
def test_what_cannot_be_right_is_one_line_and_exit_code_2(
    server: TritonServer, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, _, errors = bench(tmp_path, "--server", server.grpc_address, *arguments)
    assert code == 2
    assert message in errors


def test_no_server_is_said_at_once(tmp_path: Path) -> None:
    code, lines, errors = bench(tmp_path, "--server", "127.0.0.1:1")
    assert code == 4
    assert "no connection to 127.0.0.1:1" in errors
    assert lines[-1]["error"]["code"] == "no-connection"
    assert not (tmp_path / "artifacts").exists()
