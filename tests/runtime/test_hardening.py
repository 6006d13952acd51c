"""What a server lets in, shown on the real Triton: the flags are in force, not merely given."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from enginewright_errors import UsageError
from enginewright_serve import Access, Supervisor, SupervisorPolicy, TritonServer, read_access
from enginewright_serve.access import TOKEN_HEADER
from enginewright_serve.ports import choose_ports
from runtime.certificates import Authority
from runtime.commands import Command
from runtime.conftest import Traces, eventually
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

TOKEN = "a-token.for~this_test+only"
ADMINISTRATION = {
    "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name="llm"),
    "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name="llm"),
    "RepositoryIndex": pb.RepositoryIndexRequest(),
    "SystemSharedMemoryRegister": pb.SystemSharedMemoryRegisterRequest(name="x", key="/x", byte_size=1),
    "LogSettings": pb.LogSettingsRequest(),
    "TraceSetting": pb.TraceSettingRequest(),
}
USE = {
    "ModelInfer": pb.ModelInferRequest(model_name="llm"),
    "ModelConfig": pb.ModelConfigRequest(name="llm"),
    "ModelMetadata": pb.ModelMetadataRequest(name="llm"),
    "ModelStatistics": pb.ModelStatisticsRequest(name="llm"),
}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def access(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Access:
    """Everything at once: TLS, client certificates, a token."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(f"{TOKEN}\n")
    server = authority.sign("server")
    return read_access(
        "0.0.0.0",
        tls_cert=server.certificate,
        tls_key=server.key,
        tls_client_ca=authority.pem,
        token_file=token,
    )


@pytest.fixture(scope="module")
def guarded(fake_repository: Callable[..., Path], access: Access) -> Iterator[TritonServer]:
    with TritonServer(fake_repository(), access=access) as server:
        yield server


def call(channel: grpc.Channel, name: str, request: Any, token: str | None = None) -> str:
    """How it ended: OK or `STATUS details`."""
    metadata = None if token is None else [(TOKEN_HEADER, token)]
    try:
        getattr(GRPCInferenceServiceStub(channel), name)(request, metadata=metadata, timeout=10)
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}"
    return "OK"


def secure(server: TritonServer, authority: Authority, *own: bytes) -> grpc.Channel:
    options = [("grpc.ssl_target_name_override", "llm.example")]
    credentials = grpc.ssl_channel_credentials(authority.pem.read_bytes(), *own)
    return grpc.secure_channel(server.grpc_address, credentials, options)


@pytest.mark.parametrize("name", ADMINISTRATION)
def test_nobody_administers_a_server(fake_server: TritonServer, name: str) -> None:
    with grpc.insecure_channel(fake_server.grpc_address) as channel:
        assert "restricted" in call(channel, name, ADMINISTRATION[name])
        assert "restricted" in call(channel, name, ADMINISTRATION[name], token="")
        assert call(channel, "ModelReady", pb.ModelReadyRequest(name="llm")) == "OK"


def test_http_cannot_administer_it_either(fake_repository: Callable[..., Path], access: Access) -> None:
    [port] = choose_ports("127.0.0.1", {"--http-port": None})
    with TritonServer(fake_repository(), http_port=port, access=Access(token=TOKEN)) as server:
        for path in (
            "POST /v2/repository/models/llm/unload",
            "POST /v2/repository/index",
            "POST /v2/logging",
            "GET /v2/trace/setting",
            "POST /v2/models/llm/generate_stream",
            "GET /v2/models/llm/config",
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                body = b'{"text_input": "a"}'
                head = f"{path} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                connection.sendall(head + body)
                assert b"403" in connection.recv(100).split(b"\r\n")[0], path
        assert server.http_address == f"127.0.0.1:{port}"
        arguments = Path(f"/proc/{server.pid}/cmdline")
        eventually(lambda: TOKEN.encode() not in arguments.read_bytes(), "it is there twice")


def test_a_token_opens_use_and_nothing_else(guarded: TritonServer, authority: Authority) -> None:
    client = authority.sign("client", use="clientAuth")
    with secure(guarded, authority, client.key.read_bytes(), client.certificate.read_bytes()) as channel:
        for name, request in USE.items():
            assert f"restricted, expecting header '{TOKEN_HEADER}'" in call(channel, name, request)
            assert "restricted" in call(channel, name, request, token="a-token.for~this_test+onlx")
            assert "restricted" not in call(channel, name, request, token=TOKEN)
        for name, request in ADMINISTRATION.items():
            assert "restricted" in call(channel, name, request, token=TOKEN)
        assert call(channel, "ServerLive", pb.ServerLiveRequest()) == "OK"


def test_who_does_not_encrypt_or_shows_no_certificate_stays_outside(
    guarded: TritonServer, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").sign("client")
    channels = [
        grpc.insecure_channel(guarded.grpc_address),
        secure(guarded, authority),
        secure(guarded, authority, stranger.key.read_bytes(), stranger.certificate.read_bytes()),
    ]
    for channel in channels:
        with channel:
            assert call(channel, "ServerLive", pb.ServerLiveRequest(), token=TOKEN).startswith("UNAVAILABLE")


def test_no_secret_stays_where_others_can_read_it(guarded: TritonServer, access: Access) -> None:
    """Triton takes its keys as arguments; they are wiped, and Triton itself still knows them."""
    arguments = Path(f"/proc/{guarded.pid}/cmdline")
    eventually(lambda: b"enginewright-token=" + b"*" * len(TOKEN) in arguments.read_bytes(), "it stayed")
    assert b"enginewright-admin=" + b"*" * 32 in arguments.read_bytes()
    environment = Path(f"/proc/{guarded.pid}/environ").read_bytes()
    assert TOKEN.encode() not in environment
    assert b"ENGINEWRIGHT_PROBE_ID" in environment
    assert TOKEN not in guarded.log.read_text()
    assert TOKEN not in repr(access)
    keeper = Path("/proc", Path(f"/proc/{guarded.pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert TOKEN.encode() not in (keeper / "cmdline").read_bytes()
    assert stat.S_IMODE(os.stat(guarded.log.parent).st_mode) == 0o700  # noqa: PTH116


def test_metrics_and_http_stay_on_loopback_whatever_the_host(
    fake_repository: Callable[..., Path], access: Access
) -> None:
    with TritonServer(fake_repository(), host="0.0.0.0", access=access) as server:
        assert server.metrics_address.startswith("127.0.0.1:")
        arguments = Path(f"/proc/{server.pid}/cmdline").read_bytes().split(b"\0")
        assert b"--metrics-address=127.0.0.1" in arguments
        assert b"--model-control-mode=none" in arguments
        assert b"--disable-auto-complete-config" in arguments
        assert b"--exit-on-error=true" in arguments


def test_a_guarded_server_is_supervised_too(
    fake_repository: Callable[..., Path], access: Access, traces: Traces
) -> None:
    """Its probe comes through TLS, with a certificate and the token."""
    with TritonServer(fake_repository(), access=access) as server:
        supervisor = Supervisor(server, lambda line: supervisor.stop(), SupervisorPolicy())
        os.kill(traces.processes()["triton_python_backend_stub"], 9)
        supervisor.run()
        probe = server.open_probe()
        assert probe.ask(30).outcome == "works"
        probe.close()


def test_a_network_address_needs_encryption_or_a_word(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"0\.0\.0\.0 is open to the network") as caught:
        read_access("0.0.0.0")
    assert "--insecure" in caught.value.hint
    assert read_access("0.0.0.0", insecure=True) == read_access("127.0.0.1") == Access()
    with Command(tmp_path, "serve", tmp_path, "--host", "0.0.0.0") as command:
        assert command.code() == 2
        assert "nothing would be encrypted" in command.errors()


def test_files_that_tls_cannot_work_with_are_refused_before_anything_starts(
    authority: Authority, tmp_path: Path
) -> None:
    server, other = authority.sign("fine"), authority.sign("other")
    expired = authority.sign("expired", days=-1)
    for_servers = authority.sign("for servers", use="serverAuth")
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    cases: list[tuple[dict[str, Path], str]] = [
        ({"tls_cert": server.certificate}, "--tls-cert without --tls-key"),
        ({"tls_key": server.key}, "--tls-key without --tls-cert"),
        ({"tls_client_ca": authority.pem}, "--tls-client-ca without --tls-cert"),
        ({"tls_cert": tmp_path / "none", "tls_key": server.key}, "none cannot be read: No such file"),
        ({"tls_cert": server.certificate, "tls_key": other.key}, "TLS does not work .*KEY_VALUES_MISMATCH"),
        ({"tls_cert": nonsense, "tls_key": server.key}, "TLS does not work with"),
        ({"tls_cert": expired.certificate, "tls_key": expired.key}, "certificate has expired"),
        (
            {
                "tls_cert": for_servers.certificate,
                "tls_key": for_servers.key,
                "tls_client_ca": authority.pem,
            },
            "TLS does not work with",
        ),
    ]
    for options, message in cases:
        with pytest.raises(UsageError, match=message):
            read_access("127.0.0.1", **options)


@pytest.mark.parametrize(
    "token", ["", "short", "with a space in it", "ümlaut-ümlaut-ümlaut", "a=b" * 10, "x" * 513]
)
def test_a_token_that_triton_would_misread_is_refused_and_not_repeated(tmp_path: Path, token: str) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    with pytest.raises(UsageError) as caught:
        read_access("127.0.0.1", token_file=file)
    assert str(file) in caught.value.message
    assert not token or token not in caught.value.message.replace(str(file), "")
