"""Tables as Markdown, for a model card."""

from __future__ import annotations

from collections.abc import Sequence

from enginewright.quality.tables import Table

__all__ = ["markdown_tables"]


def markdown_tables(heading: str, intro: str, tables: Sequence[Table]) -> str:
    """A section `## heading` with `intro` and a table for each of `tables`."""
    return "\n".join([f"## {_plain(heading)}", "", _plain(intro), *map(_table, tables)]) + "\n"


def _table(table: Table) -> str:
    rule = "|" + "---|" * len(table.columns)
    return "\n".join(
        ["", f"**{_plain(table.title)}**", "", _row(table.columns), rule, *map(_row, table.rows)]
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain, cells)) + " |"


def _plain(text: str) -> str:
    """Text that Markdown takes as it is, on one line."""
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
