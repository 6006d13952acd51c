"""Makes a repository that a test put together look like one that was packaged."""

from __future__ import annotations

import json
from pathlib import Path


def write_manifest(repository: Path) -> None:
    """A manifest.json with the files that lie in `repository` and their sizes."""
    files = {
        str(path.relative_to(repository)): {"bytes": path.stat().st_size}
        for path in repository.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    manifest = {"format": 1, "name": "test", "chain": {"package": {"files": files}}}
    (repository / "manifest.json").write_text(json.dumps(manifest))
