"""`enginewright verify REPO`: is this repository, byte for byte, what was built?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from enginewright.commands import options
from enginewright.units import format_bytes

__all__ = ["verify"]


def verify(
    repository: Annotated[Path, typer.Argument(metavar="REPO", help="The output folder of a build.")],
    json_lines: options.JsonOption = False,
) -> None:
    """Recompute the hash chain of a packaged repository against its manifest.json.

    Names the first file or link that differs and exits with 5. What it prints identifies the build: it is
    equal to what `build-engine` printed.

    \b
    Example:
        enginewright verify models/smollm2-135m-int4-awq
    """
    from enginewright.verify_repository import verify_repository

    with options.reporting(json_lines) as reporter:
        found = verify_repository(repository, reporter.advance)
        reporter.result(
            f"verified: {found.name}, {found.files} files, {format_bytes(found.bytes)} "
            f"(manifest {found.manifest_sha256[:16]})",
            {
                "ok": True,
                "name": found.name,
                "files": found.files,
                "bytes": found.bytes,
                "manifest_sha256": found.manifest_sha256,
            },
        )
