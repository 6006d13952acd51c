"""The manifest of a build: a chain from the checkpoint's files to every file of the repository.

    source       what the checkpoint is, and the hash of each of its files
    calibration  the hash of the token ids that the quantizer saw; absent without quantization
    quantize     request (inputs, parameters, versions, machine) -> files
    compile      the same; its input `checkpoint` is the digest of quantize's files
    verify       the same; it has no files, and it exists only because its gate passed
    report       the same, with the texts and the original as inputs; its figures are in report.json
    package      the same; its files are the repository. Its request has the gate's bounds: they held

For TensorRT-LLM `checkpoint` (rank files) and `verify` come before `compile-native` and `compile-long`, whose
facts are what the engines are bound to. Where nothing can build engines, `handoff` ends the chain: its files
are the folder that is taken to a GPU.

A request's `key` is the hash of the request, a `digest` the hash of a list of files, so each link can be
recomputed (`verify_repository`). There is no time, path or secret in it: the same build gives the same bytes.
How long things took and what memory they needed is in report.json, which is not part of the chain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginewright import __version__
from enginewright.cache import Entry
from enginewright.hashing import FileHashes, hashes_as_json, tree_digest
from enginewright.output import MANIFEST
from enginewright.recipe import Recipe
from enginewright.source import Source
from enginewright.trtllm_recipe import TrtllmRecipe

__all__ = ["FORMAT", "engine_records", "first_links", "make_manifest", "manifest_key", "source_link"]

FORMAT = 1


def source_link(source: Source, files: FileHashes) -> dict[str, Any]:
    """The first link: what the checkpoint is called, and what it is."""
    return {
        "kind": source.kind,
        "name": source.name,
        "revision": source.revision,
        "files": hashes_as_json(files),
        "digest": tree_digest(files),
    }


def make_manifest(
    recipe: Recipe | TrtllmRecipe,
    figures: Mapping[str, Any],
    beginning: Mapping[str, Any],
    entries: Mapping[str, Entry],
) -> dict[str, Any]:
    """figures: of the plan. beginning: from `first_links`. entries: by stage, what follows."""
    return {
        "format": FORMAT,
        "name": recipe.name,
        "target": recipe.target,
        "enginewright": __version__,
        "recipe": _portable(recipe),
        "plan": dict(figures),
        "chain": {**beginning, **{stage: _link(entry) for stage, entry in entries.items()}},
    }


def first_links(source: Mapping[str, Any], calibration: str | None) -> dict[str, Any]:
    """What a chain begins with: `source` from `source_link`, and the SHA-256 of the calibration's tokens."""
    chain: dict[str, Any] = {"source": dict(source)}
    if calibration is not None:
        chain["calibration"] = {"sha256": calibration}
    return chain


def _link(entry: Entry) -> dict[str, Any]:
    return {
        "request": entry.request.as_json(),
        "key": entry.request.key,
        "files": hashes_as_json(entry.files),
        "digest": entry.digest,
        "facts": dict(entry.facts),
    }


def manifest_key(folder: Path, stage: str) -> str | None:
    """The key of `stage` in the manifest of the build in `folder`; None if there is no such build."""
    try:
        return str(json.loads((folder / MANIFEST).read_bytes())["chain"][stage]["key"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def engine_records(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Variant -> what its TensorRT-LLM engine is bound to (`check_environment`); empty for another target."""
    return {
        stage.removeprefix("compile-"): link["facts"]
        for stage, link in manifest["chain"].items()
        if stage.startswith("compile-")
    }


def _portable(recipe: Recipe | TrtllmRecipe) -> dict[str, Any]:
    """The recipe without this machine's paths: the chain says what was at them."""
    data = recipe.model_dump()
    places = [(data["checkpoint"], "source"), (data["quantization"]["calibration"], "data")]
    places += [(data["report"], "data"), (data["report"], "tasks")]
    for section, field in places:
        if section[field].startswith("/"):
            section[field] = section[field].rstrip("/").rpartition("/")[2]
    return data
