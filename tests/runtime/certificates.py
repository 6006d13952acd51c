"""A certificate authority for one test run, and what it signs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True)
class Signed:
    """PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates into `folder`, with the `openssl` command."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self.pem, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        subject = ("-subj", f"/CN={name}")
        _openssl("req", "-x509", *_KEY, *subject, "-days", "2", "-keyout", self._key, "-out", self.pem)

    def sign(
        self,
        name: str,
        *,
        host: str = "DNS:llm.example",
        use: str = "serverAuth,clientAuth",
        days: int = 2,
    ) -> Signed:
        """A certificate for `host`. days: until it expires; 0 or less: it has."""
        signed = Signed(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={host}\nextendedKeyUsage={use}\n")
        _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", signed.key, "-out", request)
        ca = ("-CA", self.pem, "-CAkey", self._key, "-CAcreateserial")
        end = ("-days", str(days), "-extfile", extensions, "-out", signed.certificate)
        _openssl("x509", "-req", "-in", request, *ca, *end)
        return signed


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
