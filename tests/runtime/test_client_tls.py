"""Encrypted connections: whom the client trusts, what it says when it does not, and what it never shows."""

from __future__ import annotations

import asyncio
import subprocess
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from enginewright_client import (
    TLS,
    AccessDenied,
    AsyncTritonClient,
    ConnectError,
    InsecureChannelWarning,
    InvalidRequest,
    Retry,
    TLSError,
    TritonClient,
)
from tritonclient.grpc import service_pb2 as pb

TOKEN = "correct-horse-battery-staple"
LONG_AGO = ("-startdate", "20200101000000Z", "-enddate", "20210101000000Z")


class Authority:
    """Signs certificates in a folder, by the openssl command."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._openssl("req", "-x509", *self._new(name), "-days", "3650")

    def sign(self, name: str, host: str, dates: tuple[str, ...] = ("-days", "365")) -> None:
        """NAME.pem and NAME.key, for `host`."""
        self._openssl("req", *self._new(name, host, request=True), "-addext", f"subjectAltName=DNS:{host}")
        (self.folder / "index.txt").write_text("")
        (self.folder / "ca.conf").write_text(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nrand_serial=yes\nnew_certs_dir=.\n"
            "default_md=sha256\npolicy=p\ncopy_extensions=copy\nunique_subject=no\n[p]\ncommonName=supplied\n"
        )
        signer = ("-cert", f"{self.name}.pem", "-keyfile", f"{self.name}.key")
        self._openssl(
            "ca", "-batch", "-config", "ca.conf", *signer, *dates, "-in", f"{name}.csr", "-out", f"{name}.pem"
        )

    def _new(self, name: str, host: str = "", *, request: bool = False) -> tuple[str, ...]:
        kind = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        out = f"{name}.csr" if request else f"{name}.pem"
        key = ("-newkey", *kind, "-nodes", "-keyout", f"{name}.key")
        return (*key, "-out", out, "-subj", f"/CN={host or name}")

    def _openssl(self, *words: str) -> None:
        subprocess.run(("openssl", *words), cwd=self.folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pem")
    ca, stranger = Authority(folder, "ca"), Authority(folder, "stranger")
    ca.sign("server", "localhost")
    ca.sign("elsewhere", "example.org")
    ca.sign("old", "localhost", LONG_AGO)
    ca.sign("client", "me")
    stranger.sign("forged", "me")
    return folder


class Door(grpc.GenericRpcHandler):
    """Says that every model is ready, to whoever has the token."""

    def __init__(self, token: str | None) -> None:
        self.token = token

    def service(self, details: Any) -> Any:
        metadata = dict(details.invocation_metadata)

        def ready(request: bytes, context: Any) -> bytes:
            if self.token is not None and metadata.get("authorization") != f"Bearer {self.token}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
            return pb.ModelReadyResponse(ready=True).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(ready)


@pytest.fixture
def door(pem: Path) -> Iterator[Callable[..., str]]:
    """`door("server")`: the address of a server with that certificate; None = plain text."""
    servers = []

    def start(certificate: str | None, *, client_ca: str | None = None, token: str | None = None) -> str:
        server = grpc.server(ThreadPoolExecutor(1), handlers=(Door(token),))
        servers.append(server)
        if certificate is None:
            port = server.add_insecure_port("localhost:0")
        else:
            pair = ((pem / f"{certificate}.key").read_bytes(), (pem / f"{certificate}.pem").read_bytes())
            root = None if client_ca is None else (pem / f"{client_ca}.pem").read_bytes()
            credentials = grpc.ssl_server_credentials([pair], root, require_client_auth=root is not None)
            port = server.add_secure_port("localhost:0", credentials)
        server.start()
        return f"localhost:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()


def knock(address: str, tls: TLS | None, **settings: Any) -> bool:
    """Whether the model is ready, by both clients."""
    request = pb.ModelReadyRequest(name="llm")

    async def knock_async() -> bool:
        async with AsyncTritonClient(address, tls=tls, **settings) as client:
            return bool((await client._unary("ModelReady", request, client._limits(10))).ready)

    with TritonClient(address, tls=tls, **settings) as client:
        try:
            ready = bool(client._unary("ModelReady", request, client._limits(10)).ready)
        except Exception as error:
            with pytest.raises(type(error)) as caught:
                asyncio.run(knock_async())
            assert caught.value.code == error.code  # type: ignore[attr-defined]
            raise
    return ready and asyncio.run(knock_async())


def test_a_server_that_the_authority_signed_is_trusted(door: Callable[..., str], pem: Path) -> None:
    assert knock(door("server"), TLS(ca=pem / "ca.pem"))
    assert knock(door("server"), TLS(ca=(pem / "ca.pem").read_bytes()))
    assert knock(door("elsewhere"), TLS(ca=pem / "ca.pem", server_name="example.org"))


@pytest.mark.parametrize(
    ("certificate", "authority", "code"),
    [
        ("server", "stranger", "tls-untrusted"),
        ("server", None, "tls-untrusted"),
        ("old", "ca", "tls-expired"),
        ("elsewhere", "ca", "tls-host-mismatch"),
        (None, "ca", "tls-failed"),
    ],
)
def test_a_server_that_is_not_to_be_trusted_is_told_apart(
    door: Callable[..., str], pem: Path, certificate: str | None, authority: str | None, code: str
) -> None:
    tls = TLS(ca=None if authority is None else pem / f"{authority}.pem")
    with pytest.raises(TLSError) as caught:
        knock(door(certificate), tls, retry=Retry(attempts=100))
    assert caught.value.code == code


def test_both_sides_can_ask_for_a_certificate(door: Callable[..., str], pem: Path) -> None:
    address = door("server", client_ca="ca")
    ca = pem / "ca.pem"
    assert knock(address, TLS(ca=ca, certificate=pem / "client.pem", key=pem / "client.key"))
    forged = TLS(ca=ca, certificate=pem / "forged.pem", key=pem / "forged.key")
    for refused in (TLS(ca=ca), forged):
        with pytest.raises(ConnectError) as caught:
            knock(address, refused)
        assert "certificate" in caught.value.hint


def test_plain_text_to_a_server_with_tls_is_explained(door: Callable[..., str]) -> None:
    with pytest.raises(ConnectError) as caught:
        knock(door("server"), None)
    assert "TLS" in caught.value.hint


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    client = TritonClient("localhost:1", tls=TLS(ca=tmp_path / "nothing.pem"))
    with client, pytest.raises(InvalidRequest, match=r"nothing\.pem") as caught:
        client.generate("a")
    assert caught.value.field == "tls.ca"
    with pytest.raises(InvalidRequest, match=r"tls\.key is missing"):
        TLS(certificate=b"...")


def test_a_token_opens_the_door(door: Callable[..., str], pem: Path) -> None:
    address = door("server", token=TOKEN)
    tls = TLS(ca=pem / "ca.pem")
    assert knock(address, tls, token=TOKEN)
    for settings in ({}, {"token": "guess"}):
        with pytest.raises(AccessDenied) as caught:
            knock(address, tls, **settings, retry=Retry(attempts=100))
        assert caught.value.field == "token"


def test_a_secret_is_never_shown(pem: Path) -> None:
    key = (pem / "client.key").read_bytes()
    tls = TLS(certificate=(pem / "client.pem").read_bytes(), key=key)
    client = TritonClient("10.0.0.7:8001", token=TOKEN, metadata={"x-key": "hush"}, tls=tls)
    shown = [repr(client), repr(tls), repr(client._channel_config), repr(client._transport)]
    with pytest.raises(InvalidRequest) as caught:
        TritonClient("localhost:1", token=TOKEN + "\n")
    shown += [str(caught.value), caught.value.hint]
    for text in shown:
        assert TOKEN not in text
        assert "hush" not in text
        assert "BEGIN" not in text
    assert caught.value.field == "token"


@pytest.mark.parametrize(
    "address", ["10.0.0.7:8001", "example.org:8001", "[2001:db8::1]:8001", "dns:///a.b:1"]
)
def test_a_token_in_the_clear_warns(address: str) -> None:
    with pytest.warns(InsecureChannelWarning, match="others can read"):
        TritonClient(address, token=TOKEN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TritonClient(address, token=TOKEN, tls=TLS())
        TritonClient(address)


@pytest.mark.parametrize("address", ["127.0.0.1:8001", "localhost:8001", "[::1]:8001", "unix:/tmp/socket"])
def test_a_token_within_the_machine_does_not(address: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TritonClient(address, token=TOKEN)


def test_the_header_that_kills_triton_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"(?i)triton_grpc_error") as caught:
        TritonClient("localhost:1", metadata={"Triton_grpc_error": "true"})
    assert caught.value.field == "metadata"
