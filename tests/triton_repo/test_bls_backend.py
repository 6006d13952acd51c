"""The backend over models that a test plays: queue, cancellation, silence, and what is lost for good."""

from __future__ import annotations

import queue
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from enginewright_errors import EnginewrightError
from enginewright_front.backend import EngineRequest, TokenEvent
from enginewright_front.bls_backend import BlsBackend
from enginewright_front.bls_call import BlsCall
from enginewright_front.front_config import EngineModel
from enginewright_front.trtllm_answers import Answer
from enginewright_front.trtllm_inputs import Inputs
from triton_repo.test_trtllm_inputs import ENGINE, NEUTRAL

WAIT_SECONDS = 20.0
END = Answer(())


class PlayedCall:
    """A call that answers what the test puts in; None ends it."""

    def __init__(self, model: str, request_id: str, inputs: Inputs) -> None:
        self.model, self.request_id = model, request_id
        self.opened = threading.Event()
        self.cancels = 0
        self._answers: queue.Queue[Answer | Exception | None] = queue.Queue()

    def put(self, *answers: Answer | Exception | None) -> None:
        for answer in answers:
            self._answers.put(answer)

    def answers(self) -> Iterator[Answer]:
        self.opened.set()
        while (answer := self._answers.get()) is not None:
            if isinstance(answer, Exception):
                raise answer
            yield answer

    def cancel(self) -> None:
        self.cancels += 1


class Played:
    """A backend whose calls the test answers."""

    def __init__(self, *, models: tuple[EngineModel, ...] = ENGINE.models, silence: float = 60.0) -> None:
        self.calls: list[PlayedCall] = []
        self.backend = BlsBackend(
            replace(ENGINE, models=models, silence_seconds=silence), stall_seconds=silence, call=self._call
        )

    def submit(self, tokens: int = 3, max_tokens: int = 5) -> tuple[Any, queue.Queue[TokenEvent]]:
        events: queue.Queue[TokenEvent] = queue.Queue()
        request = EngineRequest("same for all", (1,) * tokens, replace(NEUTRAL, max_tokens=max_tokens))
        return self.backend.submit(request, events.put), events

    def _call(self, model: str, request_id: str, inputs: Inputs) -> PlayedCall:
        self.calls.append(PlayedCall(model, request_id, inputs))
        return self.calls[-1]


@pytest.fixture
def play() -> Iterator[Callable[..., Played]]:
    made: list[Played] = []

    def make(**arguments: Any) -> Played:
        made.append(Played(**arguments))
        return made[-1]

    yield make
    for played in made:
        for call in played.calls:
            call.put(None)
        played.backend.close()


def last(events: queue.Queue[TokenEvent]) -> TokenEvent:
    while (event := events.get(timeout=WAIT_SECONDS)).finish_reason is None:
        pass
    return event


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"


def test_tokens_come_as_they_are_answered(play: Callable[..., Played]) -> None:
    played = play()
    _, events = played.submit()
    [call] = played.calls
    call.put(Answer((7,)))
    assert events.get(timeout=WAIT_SECONDS) == TokenEvent((7,))
    call.put(END, None)
    assert last(events) == TokenEvent((2,), None, "stop")
    wait_until(lambda: played.backend.stats().active == 0)


def test_a_request_goes_to_the_first_model_that_it_fits(play: Callable[..., Played]) -> None:
    played = play(models=(EngineModel("native", 96, 4), EngineModel("long", 256, 4)))
    for tokens in (91, 92):
        played.submit(tokens=tokens, max_tokens=5)
    assert [call.model for call in played.calls] == ["native", "long"]
    limits = played.backend.limits
    assert (limits.max_seq_len, limits.slots) == (256, 8)


def test_every_request_has_an_id_of_its_own(play: Callable[..., Played]) -> None:
    played = play()
    for _ in range(3):
        played.submit()
    assert len({call.request_id for call in played.calls}) == 3


def test_few_wait_for_a_first_token_inside_the_server_and_the_next_follows_each_of_them(
    play: Callable[..., Played],
) -> None:
    played = play()
    handles = [played.submit() for _ in range(30)]
    wait_until(lambda: all(call.opened.is_set() for call in played.calls[:24]))
    assert not any(call.opened.is_set() for call in played.calls[24:])
    assert played.backend.stats().active == 4
    assert played.backend.stats().waiting == 26
    played.calls[3].put(Answer((7,)))
    assert played.calls[24].opened.wait(WAIT_SECONDS)
    handles[29][0].cancel()
    assert last(handles[29][1]).finish_reason == "cancelled"
    played.calls[3].put(Answer(None, error="no"), None)
    assert last(handles[3][1]).error == "no"


def test_a_cancellation_is_passed_on_until_it_has_an_effect(play: Callable[..., Played]) -> None:
    played = play()
    handle, events = played.submit()
    [call] = played.calls
    call.put(Answer((7,)))
    events.get(timeout=WAIT_SECONDS)
    handle.cancel()
    wait_until(lambda: call.cancels == 2)
    call.put(END, None)
    assert last(events).finish_reason == "cancelled"
    handle.cancel()
    assert played.backend.stats().active == 0


def test_a_call_that_raises_ends_its_request_with_an_error(play: Callable[..., Played]) -> None:
    played = play()
    _, events = played.submit()
    played.calls[0].put(RuntimeError("model is not ready"))
    assert "model is not ready" in (last(events).error or "")


def test_silence_after_a_first_token_gives_the_request_up_and_stops_it(play: Callable[..., Played]) -> None:
    played = play(silence=0.2)
    _, events = played.submit()
    [call] = played.calls
    call.put(Answer((7,)))
    assert "no token for 0.2 s" in (last(events).error or "")
    assert played.backend.stats().active == 0
    wait_until(lambda: call.cancels >= 1)
    # What comes after all is nobody's.
    call.put(Answer((8,)), None)
    _, next_events = played.submit()
    played.calls[1].put(END, None)
    assert last(next_events).finish_reason == "stop"
    assert events.empty()


def test_a_request_may_wait_for_its_first_token_while_others_get_theirs(
    play: Callable[..., Played],
) -> None:
    played = play(silence=0.6)
    _, waiting = played.submit()
    _, moving = played.submit(max_tokens=50)
    until = time.monotonic() + 2 * 0.6
    while time.monotonic() < until:
        played.calls[1].put(Answer((7,)))
        moving.get(timeout=WAIT_SECONDS)
    assert waiting.empty()
    played.calls[0].put(END, None)
    assert last(waiting).finish_reason == "stop"


def test_a_model_that_hangs_gets_one_request_at_a_time_and_recovers(play: Callable[..., Played]) -> None:
    played = play(silence=0.3)
    _, events = played.submit()
    event = last(events)
    assert (event.finish_reason, event.error_code) == ("error", "engine-stalled")
    _, probe = played.submit()
    with pytest.raises(EnginewrightError) as caught:
        played.submit()
    assert caught.value.code == "engine-stalled"
    played.calls[1].put(Answer((7,)), END, None)
    assert last(probe).finish_reason == "stop"
    played.submit()
    played.submit()


def test_lost_calls_are_bounded(play: Callable[..., Played]) -> None:
    played = play(silence=0.1)
    given_up = [played.submit()[1] for _ in range(24)]
    for events in given_up:
        assert last(events).error_code == "engine-stalled"
    with pytest.raises(EnginewrightError) as caught:
        played.submit()
    assert "restart the server" in caught.value.hint
    assert sum(thread.name.startswith("call-") for thread in threading.enumerate()) <= 24


def test_closing_ends_what_runs(play: Callable[..., Played]) -> None:
    played = play()
    _, events = played.submit()
    played.backend.close()
    assert last(events).finish_reason == "cancelled"


class Responses:
    """What `exec(decoupled=True)` gives on a server that can cancel."""

    def __init__(self) -> None:
        self.cancelled = 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def cancel(self) -> None:
        self.cancelled += 1


class OldResponses:
    """As on Triton 2.51."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


@pytest.mark.parametrize("kind", [Responses, OldResponses])
def test_a_newer_servers_iterator_is_cancelled_and_an_older_ones_request_stopped_by_id(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    responses, asked = kind(), []

    def request(**arguments: Any) -> Any:
        asked.append(arguments)
        return types.SimpleNamespace(exec=lambda decoupled: responses)

    fake: Any = types.ModuleType("triton_python_backend_utils")
    fake.InferenceRequest, fake.Tensor = request, lambda name, array: (name, array)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    call = BlsCall("tensorrt_llm", "one", {})
    assert list(call.answers()) == []
    call.cancel()
    if kind is Responses:
        assert (responses.cancelled, len(asked)) == (1, 1)
    else:
        stop = asked[1]
        assert (stop["model_name"], stop["request_id"]) == ("tensorrt_llm", "one")
        assert ("stop", [[True]]) in [(name, array.tolist()) for name, array in stop["inputs"]]
