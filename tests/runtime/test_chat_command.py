"""`enginewright chat` on a terminal, against a real Triton."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from enginewright_client import TritonClient
from enginewright_serve import TritonServer
from runtime.commands import Command
from runtime.conftest import THINKING, eventually
from runtime.terminal import Terminal

CTRL_C, CTRL_D = "\x03", "\x04"
# What the line editor switches on while it waits for a line: that pasted text comes marked.
READY, ACCEPTED = "\x1b[?2004h", "\x1b[?2004l"


@pytest.fixture(scope="module")
def thinker(fake_repository: Callable[..., Path]) -> Iterator[TritonServer]:
    """A model that thinks where it is told to."""
    with TritonServer(fake_repository(**THINKING)) as server:
        yield server


@pytest.fixture
def chat(thinker: TritonServer) -> Iterator[Terminal]:
    """A conversation that waits for its first line."""
    with Terminal("chat", "--server", thinker.grpc_address) as terminal:
        terminal.shows("qwq-tiny at ")
        yield terminal


def ask(chat: Terminal, line: str) -> None:
    chat.shows(READY)
    chat.types(f"{line}\r")
    chat.shows(ACCEPTED)


def history(chat: Terminal, tmp_path: Path) -> list[dict[str, str]]:
    """What was said so far, as /save writes it."""
    file = tmp_path / "saved.json"
    file.unlink(missing_ok=True)
    ask(chat, f"/save {file}")
    eventually(lambda: file.is_file() and file.stat().st_size, "nothing was saved")
    turns: list[dict[str, str]] = json.loads(file.read_text())["turns"]
    return turns


def test_history_goes_along_without_its_thinking(chat: Terminal) -> None:
    ask(chat, "<think>the capital</think> Paris")
    chat.shows("thought for 0 s, 2 words")
    chat.shows("Paris")
    ask(chat, "/system Be brief.")
    ask(chat, "/set max_tokens=500")
    ask(chat, "show")
    chat.shows('"max_tokens": 500')
    chat.shows('"stream": true')
    sent = chat.text.rpartition('"messages": ')[2]
    for piece in ("Be brief.", "the capital</think> Paris", "assistant", "Paris "):
        assert piece in sent
    assert sent.count("the capital") == 1  # in the question, which repeats it, and not in the answer


def test_ctrl_c_stops_the_answer_and_not_the_program(
    chat: Terminal, thinker: TritonServer, tmp_path: Path
) -> None:
    with TritonClient(thinker.grpc_address) as client:

        def cancelled() -> int:
            return int(client.generate("report").text.rpartition("cancelled=")[2])

        before = cancelled()
        ask(chat, "count 100000 10")
        chat.shows("2 3 ")
        chat.types(CTRL_C)
        chat.shows("stopped")
        eventually(lambda: cancelled() == before + 1, "the request ran on")
    ask(chat, "still here")
    chat.shows("still here ")
    [stopped, last] = history(chat, tmp_path)
    assert stopped["answer"].startswith("0 1 2 3 ")
    assert last["answer"] == "still here "


def test_ctrl_c_at_the_prompt_throws_the_line_away(chat: Terminal, tmp_path: Path) -> None:
    chat.shows(READY)
    chat.types(f"half a quest{CTRL_C}")
    ask(chat, "whole")
    chat.shows("whole ")
    assert [turn["question"] for turn in history(chat, tmp_path)] == ["whole"]


def test_an_error_does_not_end_the_conversation_and_can_be_retried(chat: Terminal, tmp_path: Path) -> None:
    ask(chat, "first")
    chat.shows("first ")
    ask(chat, "fail the queue is full; try again later [queue-full]")
    chat.shows("error: the queue is full")
    chat.shows("hint: try again later")
    ask(chat, "/retry")
    chat.shows("error: the queue is full")
    assert [turn["question"] for turn in history(chat, tmp_path)] == ["first"]
    ask(chat, "/undo")
    chat.shows("took back: first")
    assert history(chat, tmp_path) == []


def test_a_saved_conversation_goes_on(chat: Terminal, thinker: TritonServer, tmp_path: Path) -> None:
    ask(chat, "<think>deep</think> said before")
    chat.shows("said before ")
    saved = history(chat, tmp_path)
    with Terminal("chat", "--server", thinker.grpc_address, "--load", str(tmp_path / "saved.json")) as again:
        ask(again, "/thinking")
        again.shows("deep")
        assert history(again, tmp_path) == saved


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("/nonsense", "/nonsense is not a command"),
        ("/set colour=red", "colour cannot be set"),
        ("/set temperature=hot", "temperature is 'hot'"),
        ("/load none.json", "none.json cannot be read"),
        ("/thinking sometimes", "thinking is 'sometimes'"),
        ("/retry", "nothing was said yet"),
        ("/help", "Ctrl-C stops an answer"),
    ],
)
def test_a_command_that_cannot_be_done_says_why_and_the_conversation_goes_on(
    chat: Terminal, line: str, answer: str
) -> None:
    ask(chat, line)
    chat.shows(answer)
    ask(chat, "alive")
    chat.shows("alive ")


@pytest.mark.parametrize("end", [CTRL_D, "/exit\r"])
def test_it_ends_when_it_is_told_to(chat: Terminal, end: str) -> None:
    chat.shows(READY)
    chat.types(end)
    assert chat.code() == 0


def test_without_a_terminal_it_names_ask(thinker: TritonServer, tmp_path: Path) -> None:
    with Command(tmp_path, "chat", "--server", thinker.grpc_address) as command:
        assert command.code() == 2
        assert "enginewright ask" in command.errors()
