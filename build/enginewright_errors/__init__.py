"""The one error tree of Enginewright. Imports nothing, so that every package may raise from it.

* EnginewrightError
  x UsageError          exit 2   a command line, recipe or request that cannot be right
    + RecipeError                a field of a recipe: unknown, of the wrong type, out of bounds
    + CheckpointError            a source checkpoint that is missing, damaged, unsafe or unsupported
  x DoesNotFit          exit 3   the plan needs more than the machine has
  x StageFailed         exit 4   a stage of the build, or a server, failed while running
  x GateFailed          exit 5   the engine was built and is not good enough
  x ServerError         exit 4   what a server answered; `enginewright_client` derives its tree from it

Every error carries a stable `code` for machines, a `message` that gives the value, and a `hint` that says
what to do. A command line prints `error: MESSAGE` and `hint: HINT` and exits with `exit_code`.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "DoesNotFit",
    "EnginewrightError",
    "GateFailed",
    "RecipeError",
    "ServerError",
    "StageFailed",
    "UsageError",
]


class EnginewrightError(Exception):
    """Base of every error raised on purpose."""

    exit_code = 4

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint


class UsageError(EnginewrightError):
    """The command line, recipe or request cannot be right."""

    exit_code = 2


class RecipeError(UsageError):
    """A field of a recipe is unknown, of the wrong type or out of bounds."""


class CheckpointError(UsageError):
    """A source checkpoint is missing, damaged, unsafe or unsupported."""


class DoesNotFit(EnginewrightError):
    """The plan needs more memory or disk than there is."""

    exit_code = 3


class StageFailed(EnginewrightError):
    """A stage of the build, or a server, failed while running."""


class GateFailed(EnginewrightError):
    """The engine was built and its verification did not pass."""

    exit_code = 5


class ServerError(EnginewrightError):
    """A server could not be reached, refused a request or failed on it."""
