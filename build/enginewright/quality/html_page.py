"""One self-contained HTML page of tables and charts: no script, no font, no request to anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from enginewright.quality.tables import Table

__all__ = ["html_page", "html_table"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #6a6f76; --rule: #dfe2e6; --paper: #fff;
  --c1: #1f6feb; --c2: #c2410c; --c3: #15803d; --c4: #7e22ce; --c5: #b45309; --c6: #0e7490; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa0a8; --rule: #343a41;
  --paper: #15181c; --c1: #6ea8fe; --c2: #fb923c; --c3: #4ade80; --c4: #c084fc; --c5: #fbbf24;
  --c6: #22d3ee; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem }
p { margin: .3rem 0; color: var(--soft); max-width: 46rem }
.pass { color: var(--c3) } .fail { color: var(--c2) }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--rule); white-space: nowrap;
  vertical-align: top }
td small { display: block; color: var(--soft); font-size: .8em; line-height: 1.2 }
th:first-child, td:first-child { text-align: left } th { color: var(--soft); font-weight: 500 }
svg { width: 100%; max-width: 46rem; height: auto; font: 11px system-ui, sans-serif; margin-top: .5rem }
svg text { fill: var(--soft) } .middle { text-anchor: middle } .end { text-anchor: end }
.axis { stroke: var(--soft) } .grid { stroke: var(--rule) } .line { fill: none; stroke-width: 2 }
.bar { fill: var(--c1) }
""" + "".join(
    f".line.c{n} {{ stroke: var(--c{n}) }} .dot.c{n}, svg text.c{n} {{ fill: var(--c{n}) }}\n"
    for n in range(1, 7)
)


def html_page(title: str, body: Sequence[str]) -> str:
    """The page; `body` is HTML already, `title` is text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def html_table(table: Table) -> str:
    """The table under its title; intervals stand below their figures, so that columns stay narrow."""
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.rows)
    return (
        f'<h2>{escape(table.title)}</h2>\n<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>'
    )


def _cell(text: str) -> str:
    value, bracket, interval = text.partition(" (")
    below = f"<small>{escape(interval.removesuffix(')'))}</small>" if bracket else ""
    return f"<td>{escape(value)}{below}</td>"
