"""Ctrl-C and SIGTERM end a build within two seconds, in whatever library it is, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

__all__ = ["Interrupted", "interruptible", "run_interruptible"]

Result = TypeVar("Result")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE = 1.3  # seconds for the main thread to end by itself


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived: `number`. The exit code of a process that it ended is 128 + number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def interruptible(clean: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted in the body.

    Python delivers them between two steps of Python code; a matrix product or a session that loads can take
    long. So a thread, woken by the signal itself, waits a moment for the body to end; after that it calls
    `clean` and exits with 128 + the signal's number. That is also the way out where Python swallows what is
    raised, as in the callback of a weak reference. Only for the main thread.
    """
    ended = threading.Event()
    ours, wakeup = socket.socketpair()
    wakeup.setblocking(False)

    def watch() -> None:
        while received := ours.recv(16):
            for number in _SIGNALS:
                if number in received and not ended.wait(_GRACE):
                    clean()
                    os._exit(128 + number)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    def swallowed(what: sys.UnraisableHookArgs) -> None:
        if not isinstance(what.exc_value, Interrupted):
            previous_hook(what)

    watcher = threading.Thread(target=watch, name="interrupt", daemon=True)
    handlers = {number: signal.signal(number, interrupt) for number in _SIGNALS}
    previous_wakeup = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    previous_hook, sys.unraisablehook = sys.unraisablehook, swallowed
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(previous_wakeup)
        sys.unraisablehook = previous_hook
        for number, handler in handlers.items():
            signal.signal(number, handler)
        wakeup.close()
        watcher.join()
        ours.close()


def run_interruptible(work: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run`, whose SIGINT and SIGTERM cancel `work` and then raise Interrupted.

    What a signal handler of Python raises between two steps of a loop is logged by asyncio and lost.
    """

    async def run() -> Result:
        task, loop, received = asyncio.ensure_future(work), asyncio.get_running_loop(), list[int]()

        def interrupt(number: int) -> None:
            received.append(number)
            task.cancel()

        for number in _SIGNALS:
            loop.add_signal_handler(number, interrupt, number)
        try:
            return await task
        except asyncio.CancelledError:
            if received:
                raise Interrupted(received[0]) from None
            raise

    return asyncio.run(run())
