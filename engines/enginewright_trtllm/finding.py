"""One thing that preflight has to say about a target, a checkpoint, a repository or a machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from enginewright_errors import RecipeError

__all__ = ["At", "Finding", "Severity", "error", "errors_of", "require_no_errors", "warning"]

Severity = Literal["error", "warning"]
# Where it would hurt: in trtllm-build, when Triton loads the engine, or at run time without a word.
At = Literal["build", "load", "run"]


@dataclass(frozen=True, slots=True)
class Finding:
    """message: the value and where it stands. reason: what goes wrong. remedy: what to do instead."""

    code: str
    severity: Severity
    at: At
    message: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        when = {"build": "fails at build", "load": "fails at load", "run": "goes wrong at run time"}[self.at]
        return f"{self.severity} [{self.code}] {self.message}: {self.reason} ({when}). {self.remedy}"


def error(code: str, at: At, message: str, reason: str, remedy: str) -> Finding:
    """A finding that stops the build."""
    return Finding(code, "error", at, message, reason, remedy)


def warning(code: str, at: At, message: str, reason: str, remedy: str) -> Finding:
    """A finding that is reported and does not stop anything."""
    return Finding(code, "warning", at, message, reason, remedy)


def errors_of(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings that stop a build."""
    return tuple(finding for finding in findings if finding.severity == "error")


def require_no_errors(findings: Iterable[Finding]) -> None:
    """Raise RecipeError with the first error's code and the number of the others, if there is one."""
    found = errors_of(findings)
    if found:
        first = found[0]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise RecipeError(f"{first.message}: {first.reason}{more}", code=first.code, hint=first.remedy)
