"""Serving without a container: is TensorRT-LLM's Triton installed, and a repository at a path of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from enginewright_trtllm.container import MODELS

__all__ = ["has_tensorrtllm_backend", "place_repository"]


def has_tensorrtllm_backend() -> bool:
    """Whether the `tritonserver` on PATH has the backend tensorrtllm: so it is in NVIDIA's image."""
    found = shutil.which("tritonserver")
    if found is None:
        return False
    return (Path(found).resolve().parent.parent / "backends" / "tensorrtllm").is_dir()


def place_repository(repository: Path, folder: Path) -> Path:
    """A model repository that can be served where it stands: `repository` itself if it is at /models.

    Elsewhere `folder` is filled with links to its models, and with configs that name the engines by the path
    in `folder`: a repository is packaged for the container's mount, and the backend takes absolute paths.
    """
    if repository.resolve() == Path(MODELS):
        return repository
    folder.mkdir()
    for model in sorted(path for path in repository.resolve().iterdir() if path.is_dir()):
        config = model / "config.pbtxt"
        text = config.read_text(encoding="utf-8") if config.is_file() else ""
        named = f'"{MODELS}/{model.name}/'
        if named not in text:
            (folder / model.name).symlink_to(model)
            continue
        (folder / model.name).mkdir()
        (folder / model.name / config.name).write_text(
            text.replace(named, _quoted(f"{folder / model.name}/")), encoding="utf-8"
        )
        for version in sorted(path for path in model.iterdir() if path != config):
            (folder / model.name / version.name).symlink_to(version)
    return folder


def _quoted(path: str) -> str:
    """The beginning of a string in protobuf's text format, without its closing quote."""
    return json.dumps(path, ensure_ascii=False)[:-1]
