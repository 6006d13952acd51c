"""Which files of a checkpoint folder hold its weights, and whether each may be read.

Only safetensors: the other formats of the ecosystem run code when they are loaded. A file has to lie inside
the folder, or, as in a snapshot of the Hugging Face cache, be a link into the `blobs` beside it.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enginewright_errors import CheckpointError
from enginewright_model import read_json_object

from enginewright.safetensors_header import TensorEntry, read_safetensors_header

__all__ = ["WeightFiles", "find_weight_files", "require_inside"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
UNSAFE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz")

# 32B models have some 800 names; the bound is on what is parsed before anything is believed.
MAX_INDEX_BYTES = 64 << 20
# Of a file name, on every file system in use.
MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """Weight files in the order of their names, the index if there is one, tensor name -> (file, entry)."""

    files: tuple[Path, ...]
    index: Path | None
    tensors: Mapping[str, tuple[Path, TensorEntry]]


def find_weight_files(folder: Path) -> WeightFiles:
    """Find the weights of `folder`, read every header; `model.safetensors` wins over an index, as upstream.

    Raises:
        CheckpointError: no safetensors, an unsafe or missing shard, a damaged header, a tensor that is in two
            shards, or an index that disagrees with the shards.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.exists() or single.is_symlink():
        require_inside(folder, single)
        header = read_safetensors_header(single)
        return WeightFiles((single,), None, {name: (single, entry) for name, entry in header.tensors.items()})
    if not (index.exists() or index.is_symlink()):
        raise _no_weights(folder)
    require_inside(folder, index)
    weight_map = _weight_map(index)
    shards = {name: _shard(folder, name) for name in sorted(set(weight_map.values()))}
    tensors: dict[str, tuple[Path, TensorEntry]] = {}
    for path in shards.values():
        for name, entry in read_safetensors_header(path).tensors.items():
            if name in tensors:
                raise CheckpointError(
                    f"tensor {name!r} is in both {tensors[name][0].name} and {path.name}",
                    code="tensor-duplicate",
                    hint="the shards are of two different checkpoints: download the folder again",
                )
            tensors[name] = (path, entry)
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name][0].name != shard:
            raise CheckpointError(
                f"{INDEX}: tensor {name!r} should be in {shard} and is not",
                code="shard-index",
                hint="the index and the shards do not belong together: download the folder again",
            )
    return WeightFiles(tuple(shards.values()), index, tensors)


def require_inside(folder: Path, path: Path) -> None:
    """Raise unless `path` is a regular file that really lies in `folder` (or in its hub cache's blobs)."""
    if not path.exists():
        what = "is a link to a file that is missing" if path.is_symlink() else "is missing"
        raise CheckpointError(
            f"{path.name} {what} in {folder}",
            code="shard-missing" if path.suffix == ".safetensors" else "file-missing",
            hint="the download is not complete: download it again",
        )
    root, real = folder.resolve(), path.resolve()
    allowed = [root]
    # <cache>/models--org--name/snapshots/<commit>/x -> ../../blobs/<hash>
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    if not any(real.is_relative_to(place) for place in allowed):
        raise CheckpointError(
            f"{path.name} is a link that leaves the checkpoint folder, to {real}",
            code="path-escapes",
            hint="copy the file into the folder",
        )
    if not real.is_file():
        raise CheckpointError(
            f"{path.name} is not a regular file", code="path-escapes", hint="replace it by the file itself"
        )


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json_object(index, limit=MAX_INDEX_BYTES).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(shard, str) for shard in weight_map.values())
    ):
        raise CheckpointError(
            f"{INDEX}: weight_map is not a map from tensor names to files",
            code="shard-index",
            hint="download the index again",
        )
    return weight_map


def _shard(folder: Path, name: str) -> Path:
    """The path of the shard that the index calls `name`: a plain file name, nothing else."""
    if any(character in name for character in "/\\:\0") or name.startswith("."):
        raise CheckpointError(
            f"{INDEX}: the shard name {reprlib.repr(name)} is a path, not a file beside the index",
            code="shard-path",
            hint="do not use this checkpoint: an index of this kind is made to read other files",
        )
    if not name.endswith(".safetensors"):
        raise CheckpointError(
            f"{INDEX}: the shard {reprlib.repr(name)} is not a .safetensors file",
            code="weights-not-safetensors",
            hint=_SAVE_AGAIN,
        )
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise CheckpointError(
            f"{INDEX}: the shard name {reprlib.repr(name)} is longer than a file's may be",
            code="shard-index",
            hint="download the index again",
        )
    path = folder / name
    require_inside(folder, path)
    return path


_SAVE_AGAIN = (
    "only safetensors are read, because the other formats can run code: load the model where you trust it "
    "and save it again with model.save_pretrained(folder), or use a revision that has safetensors"
)


def _no_weights(folder: Path) -> CheckpointError:
    unsafe = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in UNSAFE_SUFFIXES)
    if unsafe:
        shown = ", ".join(unsafe[:3]) + (f" and {len(unsafe) - 3} more" if len(unsafe) > 3 else "")
        return CheckpointError(
            f"{folder} has no safetensors weights, only {shown}",
            code="weights-not-safetensors",
            hint=_SAVE_AGAIN,
        )
    stray = sorted(path.name for path in folder.glob("*.safetensors"))
    if stray:
        return CheckpointError(
            f"{folder} has {stray[0]} but neither {SINGLE} nor {INDEX}",
            code="weights-missing",
            hint=f"a single file has to be called {SINGLE}; shards need their index",
        )
    return CheckpointError(
        f"{folder} has no weights: neither {SINGLE} nor {INDEX}",
        code="weights-missing",
        hint="name the folder that holds the checkpoint itself",
    )
