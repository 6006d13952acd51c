"""`enginewright report`: the build's own numbers on the terminal, as HTML and as Markdown."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_runs import Run
from cli_call import call_cli
from enginewright.quality.record import read_record
from enginewright.quality.report_page import report_html, report_markdown
from enginewright.quality.svg import Bar, Line, Point, bar_chart, line_chart, scatter_chart
from enginewright_errors import GateFailed, UsageError

Command = Callable[..., tuple[int, str, str]]
FORMAT = ("quantization.format=int4_awq", "quantization.group_size=64", "quantization.calibration.samples=1")


@pytest.fixture(scope="module")
def build(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = tiny(arch="qwen2", hidden=64, intermediate=128, layers=2, heads=2, kv_heads=1)
    run = Run(tmp_path_factory.mktemp("report"))
    run(
        checkpoint,
        *FORMAT,
        "quantization.calibration.length=64",
        "report.sensitivity=true",
        "report.prompts=2",
    )
    return run.out


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`run("report", ...)`: (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        return call_cli(monkeypatch, capsys, *arguments)

    return call


def measured(build: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((build / "report.json").read_bytes())["stages"]["report"]["measured"]
    return found


def test_the_terminal_shows_the_builds_numbers(run: Command, build: Path) -> None:
    code, out, errors = run("report", build)
    assert (code, errors) == (0, "")
    figure = measured(build)["held_out"]["engine"]["mean_kl"]
    assert f"{figure['value']:#.3g} ({figure['low']:#.3g}-{figure['high']:#.3g})" in out
    for title in (
        "Held-out text",
        "Greedy answers of the original",
        "Tasks, right answers",
        "Costliest layers",
    ):
        assert title in out
    assert "tiny: The gate held." in out


def test_json_has_the_figures_as_they_were_measured(run: Command, build: Path) -> None:
    code, out, _ = run("report", build, "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(told) == 1
    assert told[0]["measured"] == measured(build)
    assert told[0]["ok"] and told[0]["rejected"] is None


class Page(HTMLParser):
    """What a browser would fetch, and whether every element ends."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            f"{tag} {name}" for name, _ in attributes if name in ("src", "href", "srcset", "data")
        ]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_the_page_stands_alone_and_has_a_chart_of_each_kind(
    run: Command, build: Path, tmp_path: Path
) -> None:
    code, out, _ = run("report", build, "--html", tmp_path / "r.html", "--markdown", tmp_path / "r.md")
    assert code == 0 and f"written: {tmp_path / 'r.html'}" in out
    text = (tmp_path / "r.html").read_text()
    page = Page(text)
    assert page.fetched == [] and "url(" not in text and "@import" not in text and "script" not in page.tags
    assert page.open == [], "elements that do not end"
    charts = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(charts) == 3
    for chart in charts:
        ElementTree.fromstring(chart)
    figure = measured(build)["held_out"]["engine"]["top1"]
    assert f"{figure['value']:.1%}" in text and f"{figure['value']:.1%}" in (tmp_path / "r.md").read_text()


def test_markdown_tables_have_as_many_cells_in_every_row(build: Path) -> None:
    text = report_markdown(read_record(build))
    assert text.startswith("## Quantization quality\n")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        counts = {len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}
        assert len(counts) == 1, block


def test_what_a_checkpoint_is_called_cannot_become_markup(build: Path, tmp_path: Path) -> None:
    for name in ("manifest.json", "report.json"):
        (tmp_path / name).write_bytes((build / name).read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    manifest["chain"]["source"]["name"] = manifest["name"] = "<script>|`x`"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    record = read_record(tmp_path)
    assert "<script" not in report_html(record)
    assert "\\<script\\>\\|\\`x\\`" in report_markdown(record)


def test_a_rejected_build_is_shown_with_its_reason(
    run: Command, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = tiny(arch="qwen2", hidden=64, intermediate=128, layers=1, heads=2, kv_heads=1)
    builds = Run(tmp_path)
    error = builds.fails(GateFailed, checkpoint, "gate={max_kl: 1.0e-12}")
    code, out, _ = run("report", tmp_path / "out.rejected", "--html", tmp_path / "r.html")
    assert code == 0
    assert f"Rejected: {error.message}." in out
    assert "mean KL from the original" in (tmp_path / "r.html").read_text()
    builds.fails(GateFailed, checkpoint, "verify.max_kl=1.0e-12")
    code, _, errors = run("report", tmp_path / "out.rejected")
    assert code == 2 and "has no quality report: verify: mean KL" in errors


def test_what_is_no_build_or_cannot_be_written_says_so(run: Command, build: Path, tmp_path: Path) -> None:
    code, _, errors = run("report", tmp_path)
    assert code == 2 and "manifest.json cannot be read" in errors and "hint: " in errors
    code, _, errors = run("report", build, "--html", tmp_path / "none" / "r.html")
    assert code == 2 and "cannot be written: No such file" in errors
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(UsageError, match="not a JSON object"):
        read_record(tmp_path)


def test_charts_of_little_are_charts() -> None:
    for chart in (
        line_chart([Line("a", [(0.0, 0.0), (1.0, 0.0)])], x="x", y="y"),
        line_chart([], x="x", y="y"),
        bar_chart([], x="x", y="y"),
        bar_chart([Bar("0", 0.0)], x="x", y="y"),
        scatter_chart([Point("<a>", 1.0, 0.0, 0.0, 0.0)], x="x", y="y"),
    ):
        numbers = re.findall(r' (?:x|y|x1|y1|cx|cy|height|width)="([^"]*)"', chart)
        assert all(np.isfinite(float(number)) for number in numbers)
        ElementTree.fromstring(chart)
