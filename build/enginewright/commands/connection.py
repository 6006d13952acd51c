"""How a command reaches a running server: its address, a token, and whom to trust."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from enginewright_errors import UsageError

if TYPE_CHECKING:
    from enginewright_client import TLS

__all__ = [
    "MODEL",
    "SERVER",
    "Model",
    "Secured",
    "Server",
    "TlsCa",
    "TlsCert",
    "TlsKey",
    "TokenFile",
    "check_secret",
    "read_secret",
]

SERVER = "127.0.0.1:8001"
MODEL = "llm"
_SYSTEM = "system"
_PANEL = "Secured servers"

Server = Annotated[str, typer.Option("--server", metavar="HOST:PORT", help="gRPC address of the server.")]
Model = Annotated[str, typer.Option("--model", help="The model to ask, by its name in Triton.")]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="A file with the token that it asks for.", rich_help_panel=_PANEL),
]
TlsCa = Annotated[
    str | None,
    typer.Option(
        "--tls-ca",
        metavar="FILE",
        help=f"TLS: PEM of who signed its certificate; `{_SYSTEM}` trusts whom gRPC trusts.",
        rich_help_panel=_PANEL,
    ),
]
TlsCert = Annotated[
    Path | None, typer.Option("--tls-cert", help="PEM of a client's certificate.", rich_help_panel=_PANEL)
]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", help="PEM of its key.", rich_help_panel=_PANEL)]


@dataclass(frozen=True, slots=True)
class Secured:
    """What these options say, as a client takes it."""

    token_file: Path | None = None
    tls_ca: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @property
    def token(self) -> str | None:
        return None if self.token_file is None else read_secret("--token-file", self.token_file)

    @property
    def tls(self) -> TLS | None:
        """None without any of the options: the connection is not encrypted."""
        if self.tls_ca is None and self.tls_cert is None and self.tls_key is None:
            return None
        from enginewright_client import TLS

        ca = None if self.tls_ca == _SYSTEM else self.tls_ca
        return TLS(ca=ca, certificate=self.tls_cert, key=self.tls_key)


def read_secret(option: str, file: Path) -> str:
    """The text in `file` without the space around it, which is never shown.

    Raises UsageError for a file that is empty or no text, and for what no HTTP header can carry.
    """
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"{option} {file} cannot be read", code="bad-secret-file", hint="give a text file"
        ) from None
    if not secret:
        raise UsageError(f"{option} {file} is empty", code="bad-secret-file", hint="write the secret into it")
    check_secret(f"{option} {file}", secret)
    return secret


def check_secret(source: str, secret: str) -> None:
    """Raises UsageError for a secret from `source` that no HTTP header can carry: nobody could send it."""
    if not (secret.isascii() and secret.isprintable()):
        raise UsageError(
            f"{source} holds characters that a header cannot carry",
            code="bad-secret-file",
            hint="one line of printable ASCII",
        )
