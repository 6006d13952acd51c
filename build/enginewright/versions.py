"""What computes: the code of this project that a stage runs, and the libraries it calls."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

__all__ = ["code_version", "library_version", "stage_versions"]

_OURS = "enginewright"  # every package of this project begins with it


def stage_versions(*, code: Iterable[str], libraries: Iterable[str] = ()) -> dict[str, str]:
    """Versions for a stage's key. `code`: modules or packages of this project, read, not imported."""
    return {name: code_version(name) for name in code} | {name: library_version(name) for name in libraries}


@cache
def code_version(name: str) -> str:
    """A hash of the sources of a package; of a module, its source and all of ours that it imports.

    An edited stage is another stage, whoever edited it and wherever it is installed.
    """
    file = _find(name)
    if file is None:
        raise ModuleNotFoundError(name, name=name)
    root = file.parent
    if file.name == "__init__.py":
        sources = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    else:
        sources = _closure(name, file)
    state = hashlib.sha256()
    for label, path in sorted(sources.items()):
        content = path.read_bytes()
        state.update(f"{label}\0{len(content)}\0".encode())
        state.update(content)
    return state.hexdigest()[:16]


@cache
def library_version(distribution: str) -> str:
    """The installed version of a distribution, or "absent"."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _closure(name: str, file: Path) -> dict[str, Path]:
    found = {name: file}
    waiting = [file]
    while waiting:
        for imported in _imports(waiting.pop()):
            source = _find(imported) if imported not in found else None
            if source is not None:
                found[imported] = source
                waiting.append(source)
    return found


def _imports(path: Path) -> Iterator[str]:
    """Names of ours that `path` imports, anywhere in it; some are attributes, not modules."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(_OURS))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_OURS):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _find(name: str) -> Path | None:
    """The source of a module or package, found without importing its parents."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    base = Path(spec.origin).parent.joinpath(*rest)
    candidates = (base.with_suffix(".py"), base / "__init__.py") if rest else (Path(spec.origin),)
    return next((path for path in candidates if path.is_file()), None)
