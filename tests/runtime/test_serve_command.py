"""`enginewright serve` as a process: what it prints, how it ends, and that nothing of it stays."""

from __future__ import annotations

import os
import shlex
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from enginewright_client import ConnectError, RequestError, TritonClient
from enginewright_serve.ports import choose_ports
from runtime.commands import Command
from runtime.conftest import Traces, eventually

READY = "Ctrl-C stops it"


@pytest.fixture
def ports() -> list[str]:
    """Two free ports, as options."""
    chosen = choose_ports("127.0.0.1", {"--grpc-port": None, "--metrics-port": None})
    return [f"--grpc-port={chosen[0]}", f"--metrics-port={chosen[1]}"]


@pytest.fixture
def serving(
    fake_repository: Callable[..., Path], ports: list[str], traces: Traces, tmp_path: Path
) -> Iterator[Command]:
    """A server that is up."""
    with Command(tmp_path, "serve", fake_repository(), *ports) as command:
        command.prints(READY)
        assert traces.shared_memory()
        yield command
    eventually(traces.nothing_left, "something stayed")


def address(command: Command) -> str:
    return command.text().partition("gRPC")[2].split()[0]


def test_the_line_to_paste_asks_this_server(serving: Command, tmp_path: Path) -> None:
    [line] = [line for line in serving.text().splitlines() if line.startswith("ask it:")]
    program, *arguments = shlex.split(line.partition(":")[2])
    assert program == "enginewright"
    (tmp_path / "ask").mkdir()
    with Command(tmp_path / "ask", *arguments) as ask:
        assert ask.code() == 0
        assert ask.text() == "What is the capital of France? \n"
    assert "ready in" in serving.text()
    assert f"metrics  http://{address(serving).rpartition(':')[0]}" in serving.text()
    assert "warning" not in serving.text() + serving.errors()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_stops_it_cleanly(serving: Command, traces: Traces, number: int, code: int) -> None:
    serving.process.send_signal(number)
    assert serving.code() == code
    assert "stopped in" in serving.text()
    assert serving.errors() == ""
    assert traces.nothing_left()


def test_a_second_interrupt_does_not_wait_for_running_requests(serving: Command, traces: Traces) -> None:
    with TritonClient(address(serving)) as client, client.stream("count 100000 10") as answer:
        next(answer)
        serving.interrupt()
        serving.prints("Ctrl-C again")
        serving.interrupt()
        assert serving.code() == 130
        with pytest.raises(ConnectError):
            list(answer)
    assert traces.nothing_left()


def test_sigterm_takes_no_more_requests_and_lets_running_ones_end(serving: Command) -> None:
    def is_refused() -> bool:
        with TritonClient(address(serving), timeout=10) as another:
            try:
                another.generate("a")
            except RequestError:
                return True
        return False

    with TritonClient(address(serving)) as client, client.stream("count 200 20") as answer:
        next(answer)
        serving.process.send_signal(signal.SIGTERM)
        eventually(is_refused, "it still takes requests")
        assert len(list(answer)) >= 199
        assert answer.finish_reason == "stop"
    assert serving.code() == 0


def test_a_drain_that_takes_too_long_is_ended(
    fake_repository: Callable[..., Path], ports: list[str], traces: Traces, tmp_path: Path
) -> None:
    with Command(tmp_path, "serve", fake_repository(), *ports, "--drain-timeout=1") as command:
        command.prints(READY)
        with TritonClient(address(command)) as client, client.stream("count 100000 10") as answer:
            next(answer)
            command.process.send_signal(signal.SIGTERM)
            assert command.code() == 0
            with pytest.raises(RequestError):
                list(answer)
    assert traces.nothing_left()


def test_a_second_sigterm_does_not_wait(serving: Command, traces: Traces) -> None:
    with TritonClient(address(serving)) as client, client.stream("count 100000 10") as answer:
        next(answer)
        serving.process.send_signal(signal.SIGTERM)
        serving.prints("stopping")
        serving.process.send_signal(signal.SIGTERM)
        assert serving.code() == 0
        with pytest.raises(ConnectError):
            list(answer)
    assert traces.nothing_left()


def test_nothing_stays_when_it_is_killed(serving: Command, traces: Traces) -> None:
    serving.process.kill()
    eventually(traces.nothing_left, "something stayed")


def test_a_terminal_that_is_closed_ends_it(serving: Command, traces: Traces) -> None:
    serving.process.send_signal(signal.SIGHUP)
    eventually(traces.nothing_left, "something stayed")


def test_a_server_that_dies_is_started_again_and_said_so(serving: Command, traces: Traces) -> None:
    os.kill(traces.processes()["tritonserver"], signal.SIGKILL)
    serving.prints("restarted in")
    assert "the server ended: killed by signal 9" in serving.text()
    with TritonClient(address(serving)) as client:
        assert client.generate("a").text == "a "
    serving.process.send_signal(signal.SIGTERM)
    assert serving.code() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_interrupted_before_it_is_up(
    fake_repository: Callable[..., Path], ports: list[str], traces: Traces, tmp_path: Path, number: int
) -> None:
    with Command(tmp_path, "serve", fake_repository(fault="mute"), *ports) as command:
        eventually(traces.shared_memory, "the server never came")
        command.process.send_signal(number)
        assert command.code() == 128 + number
    eventually(traces.nothing_left, "something stayed")


def test_a_busy_port_names_its_holder(
    serving: Command, fake_repository: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    port = address(serving).rpartition(":")[2]
    with Command(tmp_path / "second", "serve", fake_repository(), "--grpc-port", port) as second:
        assert second.code() == 2
        holder = f"pid {serving.text().partition('(pid ')[2].partition(')')[0]} (tritonserver)"
        assert second.errors().splitlines() == [
            f"error: port {port} of 127.0.0.1 is in use by {holder}",
            "hint: stop it, or choose another port with --grpc-port",
        ]
        assert second.text() == ""


def test_what_cannot_be_served_is_refused_with_its_code(
    fake_repository: Callable[..., Path], ports: list[str], traces: Traces, tmp_path: Path
) -> None:
    with Command(tmp_path, "serve", tmp_path / "nothing") as command:
        assert command.code() == 2
        assert command.errors().startswith(f"error: {tmp_path / 'nothing'} is not a folder\nhint: ")
    with Command(tmp_path, "serve", fake_repository(fault="raise"), *ports, "--log-file", "log") as command:
        assert command.code() == 4
        assert command.errors().splitlines() == [
            "error: the server did not start: model llm: ValueError: the engine is broken",
            "hint: its log is log",
        ]
        assert "on purpose" in (tmp_path / "log").read_text()
    assert traces.nothing_left()


def test_options_reach_the_server(
    fake_repository: Callable[..., Path], traces: Traces, tmp_path: Path
) -> None:
    names = ("--grpc-port", "--metrics-port", "--http-port")
    chosen = dict(zip(names, choose_ports("127.0.0.1", dict.fromkeys(names)), strict=True))
    options = [*(f"{name}={port}" for name, port in chosen.items()), "--host=0.0.0.0", "--insecure"]
    options += ["--threads=3", "--log-file=server.log"]
    with Command(tmp_path, "serve", fake_repository(), *options) as command:
        command.prints(READY)
        assert "warning: whoever reaches 0.0.0.0 may ask" in command.text()
        with socket.create_connection(("127.0.0.1", chosen["--http-port"]), timeout=10) as connection:
            connection.sendall(b"GET /v2/health/ready HTTP/1.0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.0 200")
        command.interrupt()
        assert command.code() == 130
    assert "threads 3" in (tmp_path / "server.log").read_text()
