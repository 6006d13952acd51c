"""What a build shows: short lines for logs, JSON for machines, and nothing that a reader must guess."""

from __future__ import annotations

import io
import json
import sys

import pytest
from enginewright.progress import BarReporter, JsonReporter, PlainReporter, Reporter, choose_reporter
from rich.console import Console


def play(reporter: Reporter) -> None:
    reporter.say("plan", plan={"fits": True})
    with reporter.stage("quantize") as line:
        for done in range(11):
            reporter.advance(done, 10)
        reporter.advance(1, 0)
        line.note = "1.6 MiB"
    with reporter.stage("compile") as line:
        line.verb = "reused"
    reporter.warn("the cached [compile] is damaged")
    with pytest.raises(ValueError, match="x"), reporter.stage("verify"):
        raise ValueError("x")
    reporter.result("built: out", {"ok": True})


def test_plain_lines_for_logs() -> None:
    out, errors = io.StringIO(), io.StringIO()
    play(PlainReporter(out, errors))
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["plan", "quantize", "compile", "built:"]
    assert lines[1].split() == ["quantize", "built", "0.0", "s", "1.6", "MiB"]
    assert lines[2].split() == ["compile", "reused", "0.0", "s"]
    assert errors.getvalue() == "warning: the cached [compile] is damaged\n"


def test_json_lines_for_machines_end_with_the_result() -> None:
    out = io.StringIO()
    play(JsonReporter(out))
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [event["event"] for event in events if event["event"] != "progress"] == [
        "message",
        "stage-started",
        "stage-finished",
        "stage-started",
        "stage-finished",
        "warning",
        "stage-started",
        "stage-failed",
        "result",
    ]
    assert events[0]["plan"] == {"fits": True}
    assert events[-1] == {"event": "result", "ok": True}
    finished = [event for event in events if event["event"] == "stage-finished"]
    assert [event["verb"] for event in finished] == ["built", "reused"]
    assert len(events) < 15, "progress is told now and then, not for every block"


def test_bars_on_a_terminal_leave_the_same_lines() -> None:
    out = io.StringIO()
    play(BarReporter(Console(file=out, force_terminal=True, width=80, highlight=False)))
    text = out.getvalue()
    assert "\x1b[" in text
    assert "quantize  built" in text
    assert "the cached [compile] is damaged" in text
    assert text.rstrip().endswith("built: out")


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(choose_reporter(json_lines=True), JsonReporter)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert type(choose_reporter(json_lines=False)) is PlainReporter
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert type(choose_reporter(json_lines=False)) is BarReporter
