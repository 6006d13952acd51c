"""Shrink a cache: what is damaged goes, then what no build has used for longest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from enginewright_errors import StageFailed

from enginewright.cache_entries import CachedEntry, CacheListing, disk_bytes, freed_bytes, list_entries
from enginewright.durable import remove_tree
from enginewright.file_lock import FileLock

__all__ = ["Pruned", "prune_cache"]


@dataclass(frozen=True, slots=True)
class Pruned:
    """removed: or what would be. held: chosen as well, and in use by a build. freed: bytes of the disk; what
    a repository still links stays there."""

    removed: tuple[CachedEntry, ...]
    held: tuple[CachedEntry, ...]
    freed: int


def prune_cache(
    root: Path, *, keep: int | None = None, unused_since: float | None = None, dry_run: bool = False
) -> Pruned:
    """Remove damaged entries, those last used before `unused_since` (seconds of the epoch), and the least
    recently used beyond `keep` bytes.

    An entry that a build holds stays, and everything that is not an entry. Interrupted, it leaves an entry
    whole or gone.
    """
    removed, held = [], []
    # The oldest first: an interrupted run has done what mattered most.
    for entry in reversed(_chosen(list_entries(root), keep, unused_since)):
        lock = FileLock(root / "locks" / f"{entry.stage}-{entry.key}")
        try:
            if not lock.acquire(wait=False):
                held.append(entry)
                continue
            try:
                if not dry_run:
                    _remove(root, entry)
            finally:
                lock.release()
        except OSError as error:
            raise StageFailed(
                f"{entry.folder} cannot be removed: {error.strerror}",
                code="cache-prune",
                hint="run it as the user whose cache it is; what was removed before stays removed",
            ) from None
        removed.append(entry)
    return Pruned(tuple(removed), tuple(held), freed_bytes(removed))


def _chosen(listing: CacheListing, keep: int | None, unused_since: float | None) -> list[CachedEntry]:
    """The one used last comes first."""
    kept: list[CachedEntry] = []
    chosen = []
    for entry in listing.entries:
        old = unused_since is not None and entry.used < unused_since
        if entry.damaged or old or (keep is not None and disk_bytes([*kept, entry]) > keep):
            chosen.append(entry)
        else:
            kept.append(entry)
    return chosen


def _remove(root: Path, entry: CachedEntry) -> None:
    """By one rename to where the next build sweeps, so that no name ever holds half an entry."""
    aside = root / "tmp" / f"{entry.stage}-{entry.key}"
    remove_tree(aside)
    aside.parent.mkdir(parents=True, exist_ok=True)
    entry.folder.rename(aside)
    remove_tree(aside)
