"""`enginewright ask` as a process, against a real Triton."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginewright_client import TritonClient
from enginewright_serve import TritonServer
from enginewright_serve.ports import choose_ports
from runtime.commands import ENGINEWRIGHT, Command
from runtime.conftest import THINKING, eventually
from runtime.terminal import Terminal


@pytest.fixture
def ask(fake_server: TritonServer, tmp_path: Path) -> Callable[..., Command]:
    def start(*arguments: str, given: bytes | None = None) -> Command:
        return Command(tmp_path, "ask", *arguments, "--server", fake_server.grpc_address, given=given)

    return start


def sent(ask: Callable[..., Command], *arguments: str) -> dict[str, Any]:
    """The inputs that the model got."""
    with ask(*arguments) as command:
        assert command.code() == 0, command.errors()
        inputs: dict[str, Any] = json.loads(command.text())
        return inputs


def test_the_answer_goes_to_stdout_and_nothing_else(ask: Callable[..., Command]) -> None:
    with ask("Hello, 日本語 👩‍🚀") as command:
        assert command.code() == 0
        assert command.text() == "Hello, 日本語 👩‍🚀 \n"
        assert command.errors() == ""


def test_a_model_that_is_not_served_is_named(ask: Callable[..., Command]) -> None:
    with ask("Hello", "--model", "other") as command:
        assert command.code() == 2
        assert "'other'" in command.errors()


def test_the_answer_is_streamed(ask: Callable[..., Command]) -> None:
    with ask("count 100000 10") as command:
        command.prints("0 1 2 3 ")
        assert command.process.poll() is None


def test_what_is_left_out_is_the_servers(ask: Callable[..., Command]) -> None:
    assert sent(ask, "show") == {"messages": '[{"role": "user", "content": "show"}]', "stream": True}


def test_every_option_reaches_the_model(ask: Callable[..., Command]) -> None:
    inputs = sent(
        ask, "show", "--system=Be brief.", "--max-tokens=500", "--temperature=0.25", "--top-p=0.5", "--seed=7"
    )
    assert json.loads(inputs.pop("messages")) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "show"},
    ]
    assert inputs == {"max_tokens": 500, "seed": 7, "stream": True, "temperature": 0.25, "top_p": 0.5}


def test_a_raw_text_is_sent_without_the_template(ask: Callable[..., Command]) -> None:
    assert sent(ask, "show", "--raw") == {"stream": True, "text_input": "show"}
    with ask("show", "--raw", "--system=x") as command:
        assert command.code() == 2
        assert "--system has no place in a --raw text" in command.errors()


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_the_question_is_read_from_standard_input(
    ask: Callable[..., Command], arguments: tuple[str, ...]
) -> None:
    with ask(*arguments, given="Grüße\n".encode()) as command:
        assert command.code() == 0
        assert command.text() == "Grüße \n"


@pytest.mark.parametrize(
    ("given", "problem"),
    [(b"", "the question is empty"), (b"a\xff", "not UTF-8: invalid start byte at byte 1")],
)
def test_standard_input_that_is_no_question_is_refused(
    ask: Callable[..., Command], given: bytes, problem: str
) -> None:
    with ask(given=given) as command:
        assert command.code() == 2
        assert problem in command.errors()


def test_json_is_events_and_a_result(ask: Callable[..., Command]) -> None:
    with ask("count 3 0", "--json") as command:
        assert command.code() == 0
        *deltas, result = map(json.loads, command.text().splitlines())
    assert all(delta["event"] == "delta" for delta in deltas)
    assert "".join(delta["text"] for delta in deltas) == result["text"] == "0 1 2 "
    assert result["event"] == "result"
    assert (result["ok"], result["finish_reason"], result["output_tokens"]) == (True, "stop", 3)
    assert 0 < result["time_to_first_token_s"] <= result["seconds"]


def test_json_of_a_failure_is_a_result_as_well(ask: Callable[..., Command]) -> None:
    with ask("break", "--json") as command:
        assert command.code() == 4
        result = json.loads(command.text().splitlines()[-1])
    assert result["error"] == {
        "code": "engine-broken",
        "message": "the engine broke",
        "hint": "see the log",
    }


def test_a_refused_request_is_the_servers_sentence(ask: Callable[..., Command]) -> None:
    with ask("fail top_p is 7; the largest allowed is 1 [invalid-request]") as command:
        assert command.code() == 2
        assert command.errors() == "error: top_p is 7\nhint: the largest allowed is 1\n"


@pytest.mark.parametrize("json_lines", [False, True])
def test_ctrl_c_cancels_the_request_on_the_server(
    ask: Callable[..., Command], client: TritonClient, json_lines: bool
) -> None:
    def cancelled() -> int:
        return int(client.generate("report").text.split("cancelled=")[1])

    before = cancelled()
    with ask("count 100000 10", *(["--json"] if json_lines else [])) as command:
        command.prints("2 ")
        command.interrupt()
        assert command.code() == 130
        assert "Traceback" not in command.errors()
        if json_lines:
            assert json.loads(command.text().splitlines()[-1])["exit_code"] == 130
    eventually(lambda: cancelled() == before + 1, "the request ran on")


def test_a_reader_that_goes_away_cancels_the_request(fake_server: TritonServer, client: TritonClient) -> None:
    before = client.generate("report").text
    ask = subprocess.Popen(
        [ENGINEWRIGHT, "ask", "count 100000 1", "--server", fake_server.grpc_address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert ask.stdout is not None
    assert ask.stderr is not None
    ask.stdout.read(4)
    ask.stdout.close()
    assert ask.stderr.read() == b""
    assert ask.wait() == 1
    ask.stderr.close()
    eventually(lambda: client.generate("report").text != before, "the request ran on")


def test_without_a_server_it_says_how_to_start_one(tmp_path: Path) -> None:
    [port] = choose_ports("127.0.0.1", {"--grpc-port": None})
    with Command(tmp_path, "ask", "Hello", "--server", f"127.0.0.1:{port}") as command:
        assert command.code() == 4
        [error, hint] = command.errors().splitlines()
    assert error == f"error: no connection to 127.0.0.1:{port}: Connection refused"
    assert "enginewright serve" in hint


def test_on_a_terminal_a_line_tells_how_fast_it_was(fake_server: TritonServer) -> None:
    shown = Terminal.run("ask", "count 3 2", "--server", fake_server.grpc_address)
    assert re.fullmatch(r"0 1 2 \n3 tokens, first after \d+ ms, then \d+ tokens/s\n", shown)
    shown = Terminal.run("ask", "count 9 2", "--max-tokens=4", "--server", fake_server.grpc_address)
    assert "cut off at the limit" in shown


def test_on_a_terminal_without_a_question_it_does_not_wait_for_one(fake_server: TritonServer) -> None:
    assert "error: no question" in Terminal.run("ask", "--server", fake_server.grpc_address)


def test_an_answer_cannot_control_the_terminal(fake_server: TritonServer) -> None:
    shown = Terminal.run("ask", "red\x1b[31m\x9b2J\tend", "--server", fake_server.grpc_address)
    assert shown.startswith("red[31m2J\tend \n")


def test_files_and_standard_input_stand_below_the_question(
    ask: Callable[..., Command], tmp_path: Path
) -> None:
    (tmp_path / "poem.txt").write_text("Über allen\n")
    with ask("show", "--file", str(tmp_path / "poem.txt"), "-f", "-", given=b"from a pipe") as command:
        assert command.code() == 0
        assert command.text() == "show\n\npoem.txt:\nÜber allen\n\n\nfrom a pipe \n"
    with ask("show", "--file", str(tmp_path / "none.txt")) as command:
        assert command.code() == 2
        assert "none.txt cannot be read: No such file" in command.errors()


@pytest.fixture(scope="module")
def thinker(fake_repository: Callable[..., Path]) -> Iterator[str]:
    """The address of a model that thinks where it is told to."""
    with TritonServer(fake_repository(**THINKING)) as server:
        yield server.grpc_address


def test_a_pipe_gets_the_answer_without_the_thinking(thinker: str, tmp_path: Path) -> None:
    question = "<think>well now</think> Paris"
    with Command(tmp_path, "ask", question, "--server", thinker) as command:
        assert command.code() == 0
        assert command.text() == "Paris \n"
    with Command(tmp_path, "ask", question, "--server", thinker, "--json") as command:
        assert command.code() == 0
        *events, result = map(json.loads, command.text().splitlines())
    assert {event["event"] for event in events} == {"reasoning", "delta"}
    assert (result["reasoning"], result["text"]) == ("well now", "Paris ")


@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        ("show", "\x1b[2mwell \x1b[0m\x1b[2mnow\x1b[0m\nParis \n"),
        ("fold", "thought for 0 s, 2 words"),
        ("hide", "Paris \n"),
    ],
)
def test_thinking_is_dimmed_folded_or_hidden_on_a_terminal(thinker: str, mode: str, shown: str) -> None:
    question = "<think>well now</think> Paris"
    text = Terminal.run("ask", question, "--server", thinker, "--thinking", mode)
    assert shown in text
    assert text.count("Paris") == 1
    assert ("well" in text) == (mode == "show")
