"""Ends answers that are read no further without resetting their calls.

Triton 2.51 locks up when a call is reset while a response is written: `StreamInferResponseComplete` locks the
stream and then the request, `Process` the request and then the stream (src/grpc/stream_infer_handler.cc, the
same in 2026). With that window held open for 2 ms a server hung after 5 to 30 resets, and served thousands of
answers that were left as here. So the model is asked to end the request, by its `cancel` input, and the rest
is read, in the background. A call that does not end is reset after all.
"""

from __future__ import annotations

import _thread
import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from enginewright_client._transport import AsyncCall, Call, TransportError

__all__ = ["LEAVE_SECONDS", "AsyncLeaving", "Leaving", "read_end", "read_end_async"]

LEAVE_SECONDS = 5.0
"""What an answer to a cancellation may take; a busy server needs its time, and nobody waits for it."""
_CLOSE_SECONDS = 0.5  # that a client waits, when it is closed, for what is being left
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)  # a cancellation may overtake its request, and find nothing


class Leaving:
    """The calls of one client that are being left. ask: starts a call with a cancellation."""

    def __init__(self, ask: Callable[[Any], Call]) -> None:
        self._ask = ask
        self._running: set[threading.Event] = set()

    def way_out(self, call: Call, cancellation: Any | None) -> Callable[[], None]:
        """What leaves `call` at once; cancellation: None where the model takes none."""
        if cancellation is None:
            return call.cancel
        process = os.getpid()

        def leave() -> None:
            if os.getpid() != process:  # a forked child's copy
                return
            ended = threading.Event()
            self._running.add(ended)
            try:
                # Not a threading.Thread, whose lock the garbage collector may find taken in `__del__`.
                _thread.start_new_thread(self._leave, (call, cancellation, ended))
            except RuntimeError:  # no thread any more: the interpreter ends
                self._running.discard(ended)
                call.cancel()

        return leave

    def wait(self) -> None:
        """Until all have ended, or for half a second."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        for ended in [*self._running]:
            ended.wait(max(0.0, deadline - time.monotonic()))

    def _leave(self, call: Call, cancellation: Any, ended: threading.Event) -> None:
        reader = threading.Thread(target=read_end, args=(call,), daemon=True)
        reader.start()
        for pause in _PAUSES:
            if not read_end(self._ask(cancellation)):
                break
            reader.join(pause)
            if not reader.is_alive():
                break
        call.cancel()  # without effect on one that has ended
        self._running.discard(ended)
        ended.set()


class AsyncLeaving:
    """`Leaving` for asyncio."""

    def __init__(self, ask: Callable[[Any], AsyncCall]) -> None:
        self._ask = ask
        self._running: set[asyncio.Task[None]] = set()

    def way_out(self, call: AsyncCall, cancellation: Any | None) -> Callable[[], None]:
        """What leaves `call` at once; cancellation: None where the model takes none."""
        if cancellation is None:
            return call.cancel
        home = os.getpid(), asyncio.get_running_loop()

        def leave() -> None:
            try:
                here = os.getpid(), asyncio.get_running_loop()
            except RuntimeError:
                here = None
            if here != home:  # a forked child's copy, or the last reference went in another thread
                call.cancel()
                return
            task = home[1].create_task(self._leave(call, cancellation))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        return leave

    async def wait(self) -> None:
        """Until all have ended, or for half a second."""
        if self._running:
            await asyncio.wait([*self._running], timeout=_CLOSE_SECONDS)

    async def _leave(self, call: AsyncCall, cancellation: Any) -> None:
        reader = asyncio.ensure_future(read_end_async(call))
        try:
            for pause in _PAUSES:
                if not await read_end_async(self._ask(cancellation)):
                    break
                if (await asyncio.wait({reader}, timeout=pause))[0]:
                    break
        finally:
            call.cancel()
            await reader


def read_end(call: Call) -> bool:
    """Read what is still to come; whether the call ended well."""
    try:
        while True:
            next(call)
    except StopIteration:
        return True
    except TransportError:
        return False


async def read_end_async(call: AsyncCall) -> bool:
    """`read_end` for asyncio."""
    try:
        while True:
            await call.__anext__()
    except StopAsyncIteration:
        return True
    except TransportError:
        return False
