"""`enginewright report BUILD`: what quantization cost, from the build's own measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from enginewright.commands import options

__all__ = ["report"]


def report(
    build: Annotated[
        Path, typer.Argument(metavar="BUILD", help="The output folder of a build, or its .rejected.")
    ],
    html: Annotated[
        Path | None, typer.Option("--html", help="Write one self-contained page with plots.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write tables for a model card.")
    ] = None,
    json_lines: options.JsonOption = False,
) -> None:
    """Show what quantization cost: original against quantized checkpoint against engine.

    The build measured it; this command reads report.json and computes nothing. More text, longer answers, own
    questions and the cost of each layer are fields of the recipe: only the measurement is repeated then.

    \b
    Examples:
        enginewright report models/smollm2-135m-int4-awq --html report.html
        enginewright report models/mine.rejected
        build-engine my.yaml --set report.samples=64 --set report.sensitivity=true
    """
    from enginewright.console_table import print_tables
    from enginewright.quality.record import read_record
    from enginewright.quality.report_page import report_html, report_markdown, verdict
    from enginewright.quality.tables import quality_tables
    from enginewright.text_file import write_text_file

    with options.reporting(json_lines) as reporter:
        record = read_record(build)
        written = []
        for path, text in ((html, report_html), (markdown, report_markdown)):
            if path is not None:
                write_text_file(path, text(record))
                written.append(str(path))
        if not json_lines:
            print_tables(quality_tables(record))
        reporter.result(
            "\n".join([f"{record.name}: {verdict(record)}", *(f"written: {path}" for path in written)]),
            {
                "ok": not record.rejected,
                "name": record.name,
                "format": record.format,
                "rejected": record.rejected or None,
                "measured": record.report.as_json(),
                "written": written,
            },
        )
