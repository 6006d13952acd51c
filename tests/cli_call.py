"""`enginewright ARGUMENTS` within the process of the tests."""

from __future__ import annotations

import pytest
from enginewright import cli

__all__ = ["call_cli"]


def call_cli(
    monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr. capture: the test's `capsys` or `capfd`."""
    monkeypatch.setattr("sys.argv", ["enginewright", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    out, errors = capture.readouterr()
    code = caught.value.code
    return (code if isinstance(code, int) else 0), out, errors
