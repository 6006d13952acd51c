"""`enginewright cache list` and `enginewright cache prune`: what builds keep, and how to have less of it."""

from __future__ import annotations

import re
import time
from typing import Annotated

import typer
from enginewright_errors import UsageError

from enginewright.commands import options
from enginewright.units import format_bytes, format_seconds, parse_bytes

__all__ = ["list_cache", "prune"]

_DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0}
_KEY_DIGITS = 12  # as builds print them


def list_cache(json_lines: options.JsonOption = False) -> None:
    """List what the cache keeps: stage, model, size, when a build last used it, hash; the latest first.

    The cache is ~/.cache/enginewright, or $ENGINEWRIGHT_CACHE. A model of - : no build that was finished
    uses the entry. Sizes of entries overlap where they share files; the total counts each file once.

    \b
    Example:
        enginewright cache list
    """
    from enginewright.cache import default_cache_folder
    from enginewright.cache_entries import disk_bytes, list_entries
    from enginewright.console_table import print_tables
    from enginewright.quality.tables import Table

    with options.reporting(json_lines) as reporter:
        root = default_cache_folder()
        listing, now = list_entries(root), time.time()
        total = disk_bytes(listing.entries)
        data = {
            "ok": True,
            "cache": str(root),
            "bytes": total,
            "entries": [
                {
                    "stage": entry.stage,
                    "models": list(entry.models),
                    "bytes": entry.bytes,
                    "used": entry.used,
                    "key": entry.key,
                    "damaged": entry.damaged or None,
                }
                for entry in listing.entries
            ],
            "foreign": [str(path) for path in listing.foreign],
        }
        if listing.entries and not json_lines:
            rows = tuple(
                (
                    entry.stage,
                    f"damaged: {entry.damaged}" if entry.damaged else ", ".join(entry.models) or "-",
                    format_bytes(entry.bytes),
                    f"{format_seconds(max(0.0, now - entry.used))} ago",
                    entry.key[:_KEY_DIGITS],
                )
                for entry in listing.entries
            )
            print_tables([Table(str(root), ("stage", "model", "size", "last used", "hash"), rows)])
        text = f"{root}: {len(listing.entries)} entries, {format_bytes(total)}"
        others = ", ".join(str(path.relative_to(root)) for path in listing.foreign)
        reporter.result(f"{text}\nnot entries, never touched: {others}" if others else text, data)


def prune(
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="SIZE", help="Keep the latest used up to this much, like 20GB."),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Remove what no build has used for this long: 30d."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, remove nothing.")] = False,
    json_lines: options.JsonOption = False,
) -> None:
    """Remove from the cache what no build has used for longest, and what is damaged.

    What a running build holds stays, and so do the repositories that were built: their files are links of
    their own. A build that misses an entry makes it again. Ages are hours, days or weeks: 12h, 30d, 2w.

    \b
    Examples:
        enginewright cache prune --keep 20GB
        enginewright cache prune --older-than 30d --dry-run
    """
    from enginewright.cache import default_cache_folder
    from enginewright.prune_cache import prune_cache

    if keep is None and older_than is None:
        raise UsageError(
            "cache prune: say how much is to stay",
            code="usage",
            hint="--keep 20GB, or --older-than 30d; --dry-run shows what would go",
        )
    with options.reporting(json_lines) as reporter:
        pruned = prune_cache(
            default_cache_folder(),
            keep=None if keep is None else _size(keep),
            unused_since=None if older_than is None else time.time() - _seconds(older_than),
            dry_run=dry_run,
        )
        for entry in pruned.removed:
            names = entry.damaged or ", ".join(entry.models) or "-"
            reporter.say(
                f"{entry.stage} {entry.key[:_KEY_DIGITS]}, {format_bytes(entry.bytes)}: {names}",
                removed=entry.key,
            )
        for entry in pruned.held:
            reporter.warn(f"{entry.stage} {entry.key[:_KEY_DIGITS]} stays: a build is using it")
        reporter.result(
            f"{'would remove' if dry_run else 'removed'}: {len(pruned.removed)} entries,"
            f" {format_bytes(pruned.freed)} of the disk",
            {
                "ok": True,
                "removed": [entry.key for entry in pruned.removed],
                "held": [entry.key for entry in pruned.held],
                "freed_bytes": pruned.freed,
                "dry_run": dry_run,
            },
        )


def _size(text: str) -> int:
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"--keep: {error}", code="usage", hint="write it like 20GB") from None


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if match is None:
        raise UsageError(
            f"--older-than {text!r} is not an age", code="usage", hint="write it like 12h, 30d or 2w"
        )
    return int(match[1]) * _DAYS[match[2]] * 86_400
