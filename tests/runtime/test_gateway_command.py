"""`enginewright gateway` as a process, in front of a real Triton."""

from __future__ import annotations

import re
import signal
import socket
from pathlib import Path

import httpx
import pytest
from enginewright_serve import TritonServer
from runtime.commands import Command

BODY = {"model": "llm", "prompt": "Hello there"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_it_answers_until_it_is_stopped(
    fake_server: TritonServer, tmp_path: Path, number: int, code: int
) -> None:
    with Command(tmp_path, "gateway", "--server", fake_server.grpc_address, "--port", "0") as command:
        command.prints("Ctrl-C stops it")
        url = re.findall(r"OpenAI API at (\S+) for", command.text())[0]
        assert httpx.post(f"{url}/completions", json=BODY).json()["choices"][0]["text"] == "Hello there "
        command.process.send_signal(number)
        assert command.code() == code
        assert command.errors() == ""


def test_a_second_ctrl_c_ends_it_at_once(fake_server: TritonServer, tmp_path: Path) -> None:
    body = {"model": "llm", "prompt": "count 100000 10", "stream": True}
    with Command(tmp_path, "gateway", "--server", fake_server.grpc_address, "--port", "0") as command:
        command.prints("Ctrl-C stops it")
        url = re.findall(r"OpenAI API at (\S+) for", command.text())[0]
        with httpx.stream("POST", f"{url}/completions", json=body, timeout=None) as answer:
            next(answer.iter_lines())
            command.interrupt()
            with pytest.raises(httpx.ConnectError):
                while True:  # it listens until it has seen the first
                    httpx.get(f"{url}/models")
            command.interrupt()
            assert command.code() == 130
        assert command.errors() == ""


def test_beyond_this_machine_it_wants_a_key(
    fake_server: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("gateway", "--server", fake_server.grpc_address, "--host", "0.0.0.0", "--port", "0")
    with Command(tmp_path, *arguments) as command:
        assert command.code() == 2
        assert "--host 0.0.0.0: everybody who reaches this machine" in command.errors()
    monkeypatch.setenv("ENGINEWRIGHT_API_KEY", "sk-secret")
    with Command(tmp_path, *arguments) as command:
        command.prints("callers need the API key")
        port = re.findall(r":(\d+)/v1", command.text())[0]
        url = f"http://127.0.0.1:{port}/v1/completions"
        assert httpx.post(url, json=BODY).status_code == 401
        assert httpx.post(url, json=BODY, headers={"Authorization": "Bearer sk-secret"}).status_code == 200
        assert "sk-secret" not in command.text() + command.errors()


def test_a_key_that_nobody_could_send_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("one\ntwo")
    with Command(tmp_path, "gateway", "--api-key-file", "key") as command:
        assert command.code() == 2
        assert "--api-key-file key holds characters that a header cannot carry" in command.errors()
    monkeypatch.setenv("ENGINEWRIGHT_API_KEY", "ключ")
    with Command(tmp_path, "gateway") as command:
        assert command.code() == 2
        assert "$ENGINEWRIGHT_API_KEY holds characters" in command.errors()


def test_a_port_that_is_taken_is_named(fake_server: TritonServer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Command(tmp_path, "gateway", "--port", str(port)) as command:
            assert command.code() == 2
            assert f"127.0.0.1:{port} cannot be listened on: Address already in use" in command.errors()
