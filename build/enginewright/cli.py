"""The two commands, `enginewright` and `build-engine`: errors become two lines and an exit code.

0 done · 2 recipe, checkpoint or command line · 3 the plan does not fit · 4 a stage failed
5 not good enough · 130 interrupted · 143 terminated

`--debug` with any command adds the traceback of an error.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from enginewright_errors import EnginewrightError, UsageError

from enginewright.interrupt import Interrupted

if TYPE_CHECKING:
    import typer

__all__ = ["build_engine_main", "main"]

# What any path, and the disk under stdout, may do to any command.
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """`enginewright COMMAND ...`."""

    def run() -> int:
        from enginewright.app import app

        return _call(app, "enginewright")

    sys.exit(_run(run))


def build_engine_main() -> None:
    """`build-engine RECIPE ...`: the same as `enginewright build RECIPE ...`."""

    def run() -> int:
        from enginewright.app import build_engine_app

        return _call(build_engine_app, "build-engine")

    sys.exit(_run(run))


def _call(app: typer.Typer, name: str) -> int:
    """The exit code of `app` with this process's arguments. Raises UsageError for wrong ones."""
    import typer

    # Where this class is depends on typer's version.
    wrong_arguments: type[Exception] = typer.BadParameter.__bases__[0]
    try:
        return int(app(prog_name=name, standalone_mode=False) or 0)
    except typer.Abort:  # typer's word for a Ctrl-C that no command was waiting for
        raise Interrupted(signal.SIGINT) from None
    except wrong_arguments as caught:
        error: Any = caught
        message = error.format_message()
        if message.startswith("Usage: "):  # nothing was given
            print(message, file=sys.stderr)
            return 2
        path = error.ctx.command_path if error.ctx else name
        raise UsageError(message, code="bad-arguments", hint=f"`{path} --help` tells") from None


def _run(command: Callable[[], int]) -> int:
    # ONNX Runtime's Linux wheels carry its makers' telemetry, which is decided when it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    _open_closed_streams()
    debug = _take_debug(sys.argv)
    try:
        return command()
    except EnginewrightError as error:
        if debug:
            traceback.print_exc()
        _say(error.message, error.hint)
        return error.exit_code
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("enginewright"):
            raise
        _say(f"the Python package {error.name} is not installed", "pip install 'enginewright[cpu]'")
        return 2
    except OSError as error:
        if debug or error.errno not in (*_NO_PATH, *_DISK_FULL):
            raise  # a bug
        _say(f"{error.filename or 'the output'} cannot be used: {error.strerror}", "give another path")
        if error.errno in _NO_PATH:
            return 2
        sys.stdout = _nowhere()  # what the disk did not take is not tried again at the end
        return 4
    except Interrupted as interrupt:
        _say(f"stopped by {interrupt}", "run it again: what was complete is kept")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + interrupt.number)  # all is cleaned up; libraries take seconds to unload


def _open_closed_streams() -> None:
    """Python has None for a stream that was closed before it started (`>&-`), which no print survives."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, _nowhere())


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


def _take_debug(arguments: list[str]) -> bool:
    """Whether --debug was given; every command takes it, so it is removed here."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = "--debug" in arguments[:end]
    if given:
        arguments.remove("--debug")
    return given


def _say(message: str, hint: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
