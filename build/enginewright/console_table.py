"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from enginewright.quality.tables import Table

__all__ = ["print_tables"]

_PIPE_WIDTH = 160  # where there is no terminal to ask


def print_tables(tables: Sequence[Table]) -> None:
    """One below the other; figures to the right."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    for table in tables:
        shown = RichTable(title=Text(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for number, column in enumerate(table.columns):
            shown.add_column(Text(column), justify="right" if number else "left")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        with console.capture() as printed:
            console.print(shown)
        print("\n".join(line.rstrip() for line in printed.get().splitlines()))
