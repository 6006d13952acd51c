"""The TensorRT-LLM that is installed on this machine."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from enginewright_trtllm.versions import CONTAINERS

__all__ = ["installed_release"]

# Where NVIDIA's images install Python packages; this program may run in an environment of its own.
_SYSTEM_PACKAGES = ("/usr/local/lib", "python3*/dist-packages")


def installed_release() -> dict[str, Any]:
    """tensorrt_llm, tensorrt and cuda of what is installed here; without what is not known."""
    folder, pattern = _SYSTEM_PACKAGES
    places = [*sys.path, *map(str, sorted(Path(folder).glob(pattern)))]
    found: dict[str, Any] = {}
    for name in ("tensorrt_llm", "tensorrt"):
        for package in importlib.metadata.distributions(name=name, path=places):
            found.setdefault(name, package.version)
    known = [release for release in CONTAINERS.values() if release.tensorrt_llm == found.get("tensorrt_llm")]
    if known and known[-1].cuda:
        found["cuda"] = known[-1].cuda
    return found
