"""`enginewright gateway`: the OpenAI API in front of a running server."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from enginewright_errors import UsageError

from enginewright.commands import connection

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["gateway"]

_KEY_VARIABLE = "ENGINEWRIGHT_API_KEY"
_GRACE_SECONDS = 10  # for answers that are being streamed when it is stopped


def gateway(
    server: connection.Server = connection.SERVER,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8080,
    model: connection.Model = connection.MODEL,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help=f"File with the key callers need; or ${_KEY_VARIABLE}."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without an API key.")
    ] = False,
    token_file: connection.TokenFile = None,
    tls_ca: connection.TlsCa = None,
    tls_cert: connection.TlsCert = None,
    tls_key: connection.TlsKey = None,
) -> None:
    """Serve /v1/chat/completions, /v1/completions and /v1/models for clients that speak OpenAI's API.

    Streaming, usage, `reasoning_content`, OpenAI's errors; who hangs up cancels the request in the engine.
    A signal leaves running answers 10 seconds to end; a second one does not. Exit codes: 0 after SIGTERM,
    130 after Ctrl-C.

    \b
    Examples:
        enginewright gateway
        enginewright gateway --server 127.0.0.1:9001 --port 8000
        ENGINEWRIGHT_API_KEY=... enginewright gateway --host 0.0.0.0
        OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="any")          the client's side
    """
    from enginewright_serve.access import is_loopback

    key = _read_key(api_key_file)
    if key is None and not insecure and not is_loopback(host):
        raise UsageError(
            f"--host {host}: everybody who reaches this machine could use the model",
            code="no-api-key",
            hint="give --api-key-file or ENGINEWRIGHT_API_KEY, or say --insecure",
        )
    from enginewright_client import AsyncTritonClient
    from enginewright_gateway import create_app

    secured = connection.Secured(token_file, tls_ca, tls_cert, tls_key)
    client = AsyncTritonClient(server, model=model, token=secured.token, tls=secured.tls)
    app = create_app(client, api_key=key)
    with _listen(host, port) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/v1"
        access = "callers need the API key" if key else "no API key is asked for"
        print(f"OpenAI API at {url} for {server}; {access}\nCtrl-C stops it", flush=True)
        _serve(app, listener)


def _serve(app: FastAPI, listener: socket.socket) -> None:
    """Until a signal: what is being answered has a grace then, which a second signal ends."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.should_exit:  # uvicorn would print what it breaks off
                os._exit(128 + sig)
            super().handle_exit(sig, frame)

    # uvicorn ends in order at a signal, and raises it again afterwards.
    signal.signal(signal.SIGTERM, _exit)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_GRACE_SECONDS)
    Server(config).run([listener])


def _exit(number: int, frame: FrameType | None) -> None:
    raise typer.Exit


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"{host}:{port} cannot be listened on: {error.strerror}",
            code="no-listener",
            hint="give another --port or --host",
        ) from None


def _read_key(file: Path | None) -> str | None:
    if file is None:
        key = os.environ.get(_KEY_VARIABLE) or None
        if key is not None:
            connection.check_secret(f"${_KEY_VARIABLE}", key)
        return key
    return connection.read_secret("--api-key-file", file)
