"""The commands that ask a server, in front of one that wants TLS, a client certificate and a token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from enginewright_serve import TritonServer, read_access
from runtime.certificates import Authority, Signed
from runtime.commands import Command
from runtime.terminal import Terminal

TOKEN = "a-token.for~this_test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def own(authority: Authority) -> Signed:
    return authority.sign("caller")


@pytest.fixture(scope="module")
def guarded(
    fake_repository: Callable[..., Path], folder: Path, authority: Authority
) -> Iterator[TritonServer]:
    (folder / "token").write_text(f"{TOKEN}\n")
    server = authority.sign("server", host="IP:127.0.0.1")
    access = read_access(
        "127.0.0.1",
        tls_cert=server.certificate,
        tls_key=server.key,
        tls_client_ca=authority.pem,
        token_file=folder / "token",
    )
    with TritonServer(fake_repository(), access=access) as server_process:
        yield server_process


@pytest.fixture
def options(guarded: TritonServer, folder: Path, authority: Authority, own: Signed) -> dict[str, str]:
    """All that the server asks for."""
    return {
        "--server": guarded.grpc_address,
        "--tls-ca": str(authority.pem),
        "--tls-cert": str(own.certificate),
        "--tls-key": str(own.key),
        "--token-file": str(folder / "token"),
    }


def words(options: dict[str, str]) -> list[str]:
    return [word for option in options.items() for word in option]


def test_ask_and_chat_reach_a_secured_server(options: dict[str, str], tmp_path: Path) -> None:
    with Command(tmp_path, "ask", "Hello there", *words(options)) as command:
        assert command.code() == 0, command.errors()
        assert command.text() == "Hello there \n"
    with Terminal("chat", *words(options)) as chat:
        chat.shows("/help lists the commands")


def test_bench_measures_a_secured_server(options: dict[str, str], tmp_path: Path) -> None:
    load = ("--concurrency", "1", "--requests", "2", "--warmup", "0", "--natural-end")
    sizes = ("--input-tokens", "4", "--output-tokens", "4", "--out", str(tmp_path / "out"))
    with Command(tmp_path, "bench", *load, *sizes, *words(options)) as command:
        assert command.code() == 0, command.errors()
        assert "2 of 2" in command.text()
    for file in (tmp_path / "out").rglob("*.json*"):
        assert TOKEN not in file.read_text()


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("--token-file", "restricted"),
        ("--tls-ca", "certificate"),
        ("--tls-key", "tls.key is missing"),
    ],
)
def test_what_is_missing_is_said_and_the_token_is_not(
    options: dict[str, str], tmp_path: Path, missing: str, said: str
) -> None:
    given = {name: value for name, value in options.items() if name != missing}
    with Command(tmp_path, "ask", "Hello", *words(given)) as command:
        assert command.code() in (2, 4)
        assert said in command.errors()
        assert TOKEN not in command.errors()


def test_a_token_file_without_a_token_is_refused(options: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for file, problem in (("empty", "is empty"), ("none", "cannot be read")):
        given = {**options, "--token-file": str(tmp_path / file)}
        with Command(tmp_path, "ask", "Hello", *words(given)) as command:
            assert command.code() == 2
            assert f"--token-file {tmp_path / file} {problem}" in command.errors()
