"""All requests of one model: admission, preparation, responses, cancellation, and a watch over the engine.

execute (Triton's thread)   admit: sizes, a free place, then off to
two preparing threads       parse, template, tokenize, submit to the engine
the engine's thread         on_event: into the request's inbox, nothing else
the response thread         everything that is ready of one request goes out as one response
the watch thread            asks Triton who cancelled; notices a hung engine and requests that run too long
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Literal

import numpy as np
from enginewright_errors import EnginewrightError, UsageError
from numpy.typing import NDArray

from enginewright_front.backend import EngineBackend, EngineHandle, TokenEvent
from enginewright_front.detokenizer import TokenTable
from enginewright_front.entry import Entry, Sink
from enginewright_front.fields import Value, value_from_tensor
from enginewright_front.front_config import FrontLimits
from enginewright_front.metrics import Metrics
from enginewright_front.preparation import Preparation
from enginewright_front.recorder import Recorder
from enginewright_front.refusal import InvalidRequest
from enginewright_front.request import check_sizes
from enginewright_front.request_record import RequestOutcome
from enginewright_front.serve_settings import ServeSettings
from enginewright_front.session import Session
from enginewright_front.watch import Watch
from enginewright_front.wire import INPUT


class Dispatcher:
    """Serves requests until `close`. `log` gets what an operator should see, never once a token."""

    def __init__(
        self,
        preparation: Preparation,
        table: TokenTable,
        backend: EngineBackend,
        limits: FrontLimits,
        metrics: Metrics,
        log: Callable[[str], None],
        settings: ServeSettings,
    ) -> None:
        self._preparation = preparation
        self._table = table
        self._backend = backend
        self._limits = limits
        self._recorder = Recorder(metrics, settings)
        self._log = log
        self._places = backend.limits.slots + limits.max_queue
        self._entries: set[Entry] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._ready: SimpleQueue[Entry | Literal["end", "sign"]] = SimpleQueue()
        self._alive_at = time.time()
        self._preparers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prepare")
        self._responder = threading.Thread(target=self._respond, name="respond", daemon=True)
        self._responder.start()
        self._watch = Watch(
            self._snapshot, self._cancel, self._end, self._round_trip, backend, limits, metrics
        )

    def admit(
        self, tensors: Mapping[str, NDArray[Any]], parameters: str, request_id: str, sink: Sink
    ) -> None:
        """Take a request on, or refuse it at once; answers go to `sink`. Does not block or raise."""
        entry = Entry(request_id, sink)
        try:
            check_sizes(tensors, self._limits)
            entry.cancel_key = _value(tensors, "cancel_key")
            if _value(tensors, "cancel"):
                self._cancel_all(request_id, entry.cancel_key)
                sink.send(_CANCELLED, final=True)
                return
            self._take(entry)
        except EnginewrightError as error:
            self._fail(entry, error)
            return
        self._watch.wake()
        self._preparers.submit(self._prepare, entry, tensors, parameters)

    def close(self) -> None:
        """Refuse new requests, end those that run, stop the threads and the engine."""
        with self._lock:
            self._closing = True
        self._watch.stop()
        for entry in self._snapshot():
            self._end(entry, _shutting_down())
        self._preparers.shutdown(wait=True)
        self._ready.put("end")
        self._responder.join()
        # A hung engine must not keep the server from ending.
        closer = threading.Thread(target=self._backend.close, name="close-engine", daemon=True)
        closer.start()
        closer.join(timeout=_CLOSE_SECONDS)

    def _round_trip(self) -> float:
        """When the response thread last came round; asks it to do so again."""
        self._ready.put("sign")
        return self._alive_at

    def _snapshot(self) -> list[Entry]:
        with self._lock:
            return list(self._entries)

    def _end(self, entry: Entry, error: EnginewrightError) -> None:
        """End a request from any thread; the response thread tells its caller."""
        entry.ending = error
        self._ready.put(entry)

    def _cancel(self, entry: Entry) -> None:
        """As `_end`, with what there is so far in place of an error."""
        entry.cancelled = True
        self._ready.put(entry)

    def _take(self, entry: Entry) -> None:
        with self._lock:
            if self._closing:
                raise _shutting_down()
            self._watch.check_engine()
            if len(self._entries) >= self._places:
                raise EnginewrightError(
                    f"{len(self._entries)} requests are running or waiting, the most that are taken on",
                    code="queue-full",
                    hint="try again later",
                )
            self._entries.add(entry)

    def _prepare(self, entry: Entry, tensors: Mapping[str, NDArray[Any]], parameters: str) -> None:
        try:
            prepared = self._preparation.prepare(tensors, parameters, entry.request_id)
            if entry.closed:
                return
            entry.session = Session(prepared, self._table, entry.arrival_ns)
            self._submit(entry, entry.session)
        except EnginewrightError as error:
            self._end(entry, error)
        except Exception as error:
            self._log(f"request {entry.request_id!r} failed while it was prepared: {error!r}")
            self._end(entry, _internal(error))
        if entry.closed and entry.handle is not None:
            entry.handle.cancel()

    def _submit(self, entry: Entry, session: Session) -> None:
        """Ask the engine what `session` wants asked, if anything."""

        def on_event(event: TokenEvent) -> None:
            entry.inbox.append(event)
            self._ready.put(entry)
            if entry.cancelled and event.finish_reason is not None:
                self._recorder.freed(entry)
                self._watch.wake()

        if session.request is not None:
            request, session.request = session.request, None
            entry.handle = self._backend.submit(request, on_event)
        # Its first tokens may have been answered before the handle was here.
        self._ready.put(entry)

    def _cancel_all(self, request_id: str, key: Value | None) -> None:
        if not request_id:
            raise InvalidRequest(
                "cancel", "has no request id", hint="send it with the id of the requests to end"
            )
        for entry in self._snapshot():
            if entry.request_id == request_id and key in (None, entry.cancel_key):
                self._cancel(entry)

    def _respond(self) -> None:
        while (entry := self._ready.get()) != "end":
            self._alive_at = time.time()
            if entry == "sign" or entry.closed:
                continue
            try:
                self._advance(entry)
                self._recorder.advanced(entry)
            except EnginewrightError as error:
                self._fail(entry, error)
            except Exception as error:
                self._log(f"request {entry.request_id!r} failed while it was answered: {error!r}")
                self._fail(entry, _internal(error))

    def _advance(self, entry: Entry) -> None:
        session, inbox = entry.session, entry.inbox
        if entry.ending is not None:
            raise entry.ending
        # What came in meanwhile goes out together: one response costs more than a token.
        events = [inbox.popleft() for _ in range(len(inbox))]
        if entry.cancelled:
            entry.sink.send(session.cancel(events) if session else _CANCELLED, final=True)
            self._close(entry, "cancelled")
        elif session is not None:
            tensors = session.advance(events)
            if tensors is not None:
                entry.sink.send(tensors, final=session.outcome is not None)
            if session.outcome is not None:
                self._close(entry, "cancelled" if session.outcome == "cancelled" else "completed")
            elif entry.handle is not None:
                self._end_thinking(entry, session, entry.handle)

    def _end_thinking(self, entry: Entry, session: Session, handle: EngineHandle) -> None:
        """Where a budget is spent: end the engine's request, and once it has ended submit the next."""
        if session.request is not None:
            self._submit(entry, session)
        elif session.wants_engine_stopped:
            session.wants_engine_stopped = False
            handle.cancel()

    def _fail(self, entry: Entry, error: EnginewrightError) -> None:
        try:
            entry.sink.fail(error)
        except Exception as problem:
            self._log(f"request {entry.request_id!r}: its error could not be sent: {problem!r}")
        refused = isinstance(error, UsageError) or error.code == "queue-full"
        self._close(entry, "refused" if refused else "failed", error.code)

    def _close(self, entry: Entry, outcome: RequestOutcome, cause: str | None = None) -> None:
        """Free what `entry` holds, after its last response."""
        entry.closed = True
        with self._lock:
            self._entries.discard(entry)
        session = entry.session
        if entry.handle is not None and (
            outcome != "completed" or (session and session.wants_engine_stopped)
        ):
            entry.handle.cancel()
        self._recorder.closed(entry, outcome, cause)
        self._watch.wake()


_CLOSE_SECONDS = 10.0
_CANCELLED = {
    "text_output": np.array([b""], dtype=np.object_),
    "finish_reason": np.array([b"cancelled"], dtype=np.object_),
}


def _value(tensors: Mapping[str, NDArray[Any]], name: str) -> Value | None:
    return value_from_tensor(INPUT[name], tensors[name]) if name in tensors else None


def _shutting_down() -> EnginewrightError:
    return EnginewrightError("the server is shutting down", code="shutting-down", hint="try another server")


def _internal(error: Exception) -> EnginewrightError:
    return EnginewrightError(
        f"an internal error: {type(error).__name__}", code="internal-error", hint="see the server's log"
    )
