"""`enginewright compare CHECKPOINT`: several formats of one model, built and measured side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from enginewright.commands import options
from enginewright.interrupt import interruptible
from enginewright.temporary import remove_temporary_folders

__all__ = ["compare"]


def compare(
    recipe: options.RecipeArgument,
    formats: Annotated[
        str, typer.Option("--formats", metavar="LIST", help="int4_awq, fp8, int8_sq, none; commas between.")
    ] = "int4_awq,fp8,int8_sq,none",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the builds [default: ./models/NAME-compared]."),
    ] = None,
    calibration: Annotated[
        bool,
        typer.Option(
            "--calibration/--no-calibration",
            help="Build the first format again, calibrated on plain text instead of chat, or the other way.",
        ),
    ] = True,
    html: Annotated[Path | None, typer.Option("--html", help="Write one self-contained page.")] = None,
    json_lines: options.JsonOption = False,
    memory_bandwidth: options.BandwidthOption = None,
    sets: options.SetOption = None,
) -> None:
    """Build a model in several formats and compare size, quality and speed.

    Builds go through the cache like any other. INT4-AWQ is held against plain rounding with the same groups
    on the same text, and against another calibration: whether calibration earned its time.

    \b
    Examples:
        enginewright compare smollm2-135m-int4-awq --html formats.html
        enginewright compare ./Qwen2.5-0.5B-Instruct --formats int4_awq,fp8 --set quantization.group_size=64
        enginewright compare my.yaml --formats fp8,int8_sq --no-calibration --set report.samples=32
    """
    from enginewright.console_table import print_tables
    from enginewright.load_recipe import load_recipe, parse_set
    from enginewright.quality.comparison import compare as compare_builds
    from enginewright.quality.comparison_page import comparison_html, comparison_tables
    from enginewright.quality.variants import make_variants, parse_formats
    from enginewright.text_file import write_text_file

    read_bandwidth = options.bandwidth(memory_bandwidth)
    with options.reporting(json_lines) as reporter, interruptible(remove_temporary_folders):
        loaded = load_recipe(recipe, [parse_set(text) for text in sets or ()])
        variants = make_variants(loaded, parse_formats(formats), calibration=calibration)
        folder = output or Path("models") / f"{loaded.name}-compared"
        comparison = compare_builds(variants, folder, reporter, read_bandwidth=read_bandwidth)
        if html is not None:
            write_text_file(html, comparison_html(comparison))
        if not json_lines:
            print_tables(comparison_tables(comparison))
        written = f"\nwritten: {html}" if html else ""
        reporter.result(
            f"compared: {len(comparison.rows)} builds in {folder}{written}",
            {"ok": True, "output": str(folder), **comparison.as_json()},
        )
