"""Where a Triton Inference Server is on this machine, and what it needs to run.

The wheel nvidia-pytriton carries a real one (2.51, CPU, Python backend). Its package is never imported: that
would change the process and its environment. Elsewhere, in NVIDIA's containers, `tritonserver` is on PATH.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from enginewright_errors import StageFailed, UsageError

__all__ = ["TritonBinary", "find_triton"]

_WHEEL = "nvidia-pytriton"
_BACKEND_FILES = ("libtriton_python.so", "triton_python_backend_utils.py")


@dataclass(frozen=True, slots=True)
class TritonBinary:
    """A server to run.

    backends: its backend folder, or None when one has to be made of `backend_files`.
    library_folders: to search for shared libraries, before the environment's own.
    """

    executable: Path
    backends: Path | None = None
    backend_files: tuple[Path, ...] = ()
    library_folders: tuple[Path, ...] = field(default=())


def find_triton(executable: Path | None = None) -> TritonBinary:
    """The server named by `executable`, else the wheel's, else the one on PATH.

    Raises UsageError when the named one is not there, StageFailed when there is none that can run.
    """
    if executable is not None:
        if not os.access(executable, os.X_OK) or executable.is_dir():
            raise UsageError(
                f"{executable} is not an executable file",
                code="no-triton",
                hint="give the path of tritonserver",
            )
        return _installed(executable)
    package = importlib.util.find_spec("pytriton")
    if package is not None and package.submodule_search_locations:
        return _from_wheel(Path(package.submodule_search_locations[0]))
    if found := shutil.which("tritonserver"):
        return _installed(Path(found))
    raise StageFailed(
        "no Triton Inference Server on this machine",
        code="no-triton",
        hint="pip install 'enginewright[serve]', or run in an NVIDIA tritonserver container",
    )


def _installed(executable: Path) -> TritonBinary:
    backends = executable.resolve().parent.parent / "backends"
    return TritonBinary(executable, backends=backends if backends.is_dir() else None)


def _from_wheel(package: Path) -> TritonBinary:
    server = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    executable = server / "bin" / "tritonserver"
    files = (*(server / "backends" / "python" / name for name in _BACKEND_FILES), stub)
    for file in (executable, *files):
        if not file.exists():
            raise StageFailed(
                f"{_WHEEL} has no {file.name} for Python {version}: {file}",
                code="incomplete-triton",
                hint=f"use Python 3.10, 3.11 or 3.12, and install {_WHEEL} again",
            )
    _check_numpy()
    libraries = package.parent / "nvidia_pytriton.libs"
    return TritonBinary(executable, backend_files=files, library_folders=(libraries, _libpython_folder()))


def _check_numpy() -> None:
    try:
        version = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    if not version.startswith("1."):
        raise StageFailed(
            f"numpy {version} is installed; the Python models of Triton 2.51 die with 2 and later"
            if version
            else "numpy is not installed",
            code="numpy-version",
            hint="pip install 'numpy<2'",
        )


def _libpython_folder() -> Path:
    """Where this Python's shared library is, which the stub is linked against."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{version}.so.1.0"
    places = [sysconfig.get_config_var("LIBDIR"), Path(sys.base_prefix, "lib")]
    if multiarch := sysconfig.get_config_var("MULTIARCH"):
        places += [Path("/usr/lib", multiarch), Path("/lib", multiarch)]
    for place in places:
        if place and Path(place, name).exists():
            return Path(place)
    raise StageFailed(
        f"{name} is not on this machine: this Python was built without a shared library",
        code="no-shared-libpython",
        hint=f"apt-get install libpython{version}, or build Python with --enable-shared",
    )
