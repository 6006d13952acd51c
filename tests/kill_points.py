"""Kill a process by SIGKILL at its n-th change of the file system: for tests that fork a child each trial.

Nothing in the product knows of this. In the child, what changes files is wrapped; the n-th call kills the
process before it acts, or, for a write, after half of the bytes.
"""

from __future__ import annotations

import builtins
import io
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

CHANGES = (
    "rename",
    "replace",
    "link",
    "fsync",
    "mkdir",
    "rmdir",
    "unlink",
    "chmod",
    "ftruncate",
    "pwrite",
    "sendfile",
)


class KillPoints:
    """Counts changes; at `nth` (from 1) the process dies. `nth=None` only counts."""

    def __init__(self, nth: int | None) -> None:
        self.nth = nth
        self.count = 0

    def install(self) -> None:
        for name in CHANGES:
            setattr(os, name, self._before(getattr(os, name)))
        opener = self._opener(io.open)
        builtins.open = opener
        io.open = opener  # what pathlib calls

    def reached(self) -> bool:
        self.count += 1
        return self.count == self.nth

    def _before(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self.reached():
                die()
            return real(*args, **kwargs)

        return wrapped

    def _opener(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            stream = real(file, mode, *args, **kwargs)
            return _Writer(stream, self) if set(mode) & set("wax+") else stream

        return wrapped


class _Writer:
    def __init__(self, stream: Any, points: KillPoints) -> None:
        self._stream = stream
        self._points = points

    def write(self, data: Any) -> Any:
        if self._points.reached():
            self._stream.write(data[: len(data) // 2])
            self._stream.flush()
            die()
        return self._stream.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _Writer:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._stream.__exit__(*error)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def trial(work: Callable[[], Any], nth: int | None = None, *, after: float | None = None) -> tuple[str, int]:
    """Run `work` in a fork that dies at change `nth`, or `after` seconds: (how it ended, changes counted).

    How: "killed", "done", or "failed" with a traceback on stderr.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        points = KillPoints(nth)
        status = 1
        try:
            os.close(read)
            points.install()
            work()
            os.write(write, str(points.count).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as stream:
        if after is not None and not select.select([stream], [], [], after)[0]:
            os.kill(child, signal.SIGKILL)
        counted = int(stream.read() or 0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return "killed", counted
    return ("done" if os.waitstatus_to_exitcode(status) == 0 else "failed"), counted
