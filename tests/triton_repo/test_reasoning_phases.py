"""Closed thinking is two requests to the engine: callers leave, engines fail, many run at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from enginewright_errors import EnginewrightError
from enginewright_front.backend import EngineHandle, EngineRequest, TokenEvent
from enginewright_front.scripted_backend import ScriptedBackend
from triton_repo.front_under_test import Caller, wire_tensors
from triton_repo.test_dispatcher import SlowCaller
from triton_repo.thinking import CLOSING, PROMPT, MakeFront, read, wait_until


def error_of(caller: Caller) -> EnginewrightError:
    with pytest.raises(EnginewrightError) as caught:
        list(caller.answers())
    return caught.value


@pytest.mark.parametrize("budget", [40, 1900])
def test_a_caller_that_gives_up_frees_the_slot_in_either_phase(make_front: MakeFront, budget: int) -> None:
    """The thinking and the answer are both longer than a caller waits."""
    front = make_front(lambda request: iter(lambda: 70, None), step_seconds=0.002)
    caller = front.ask(text_input=PROMPT, max_reasoning_tokens=budget, max_tokens=2000, stream=True)
    phase = 2 if budget == 40 else 1
    wait_until(lambda: len(front.backend.submitted) == phase and front.backend.stats().active == 1)
    caller.gave_up = True
    text, reason, tokens = read(caller)
    assert reason == "cancelled"
    assert ("</think>" in text) == (phase == 2)
    assert tokens == len(front.ids(text))
    wait_until(lambda: front.backend.stats().active == 0)
    wait_until(lambda: front.metrics["enginewright_requests_total/cancelled"] == [1])


class DeafBackend(ScriptedBackend):
    """An engine that hears of a cancellation only when the test says so."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.asked_to_cancel: list[Any] = []

    def submit(self, request: EngineRequest, on_event: Callable[[TokenEvent], None]) -> Any:
        line = super().submit(request, on_event)
        return DeafHandle(self.asked_to_cancel, line)


class DeafHandle:
    def __init__(self, asked: list[Any], line: EngineHandle) -> None:
        self._asked, self._line = asked, line

    def cancel(self) -> None:
        self._asked.append(self._line)


def test_the_answer_is_asked_for_once_the_engine_has_let_go(thinker: MakeFront) -> None:
    """Until then its KV cache is not to be had; what it makes meanwhile is nobody's."""
    front = thinker(backend=DeafBackend, step_seconds=0.001)
    caller = front.ask(text_input=PROMPT, max_reasoning_tokens=4, stream=True, max_tokens=1000)
    backend = front.backend
    assert isinstance(backend, DeafBackend)
    wait_until(lambda: len(backend.asked_to_cancel) == 1)
    steps = backend.pulse()
    wait_until(lambda: backend.pulse() > steps + 5)
    assert len(backend.submitted) == 1
    backend.asked_to_cancel[0].cancel()
    assert read(caller)[0].endswith(f"{CLOSING}4")
    assert len(backend.asked_to_cancel) == 1, "asked once"


def test_a_caller_that_gives_up_between_the_phases_gets_what_there_is(thinker: MakeFront) -> None:
    front = thinker(backend=DeafBackend, step_seconds=0.001)
    caller = front.ask(text_input=PROMPT, max_reasoning_tokens=4, stream=True, max_tokens=1000)
    backend = front.backend
    assert isinstance(backend, DeafBackend)
    wait_until(lambda: len(backend.asked_to_cancel) == 1)
    caller.gave_up = True
    text, reason, tokens = read(caller)
    assert text == front.tokenizer.decode((front.ids("so, ") * 4)[:4]) + CLOSING
    assert (reason, tokens) == ("cancelled", 4 + len(front.ids(CLOSING)))
    for line in backend.asked_to_cancel:
        line.cancel()
    wait_until(lambda: backend.stats().active == 0)
    assert len(backend.submitted) == 1


def test_a_model_that_ends_while_its_thinking_is_closed_answers_all_the_same(make_front: MakeFront) -> None:
    def script(request: EngineRequest) -> list[int]:
        return front.ids("4") if len(request.input_ids) > len(prompt) else front.ids("xyz")

    front = make_front(script)
    prompt = front.ids(PROMPT)
    text, reason, _ = read(front.ask(text_input=PROMPT, max_reasoning_tokens=3))
    assert (text, reason) == (f"xyz{CLOSING}4", "stop")


def test_a_seam_that_is_heard_of_late_does_not_cut_the_answer(make_front: MakeFront) -> None:
    """While a response is on its way to a slow wire, the model thinks too long and ends: all at once."""

    def script(request: EngineRequest) -> list[int]:
        return [70] * 100 if len(request.input_ids) > len(prompt) else front.ids("xyz")

    front = make_front(script, step_seconds=0.001)
    prompt = front.ids(PROMPT)
    caller = SlowCaller()
    asked = {"text_input": PROMPT, "max_reasoning_tokens": 3, "stream": True}
    front.dispatcher.admit(wire_tensors(asked), "", "", caller)
    wait_until(lambda: front.backend.submitted != [] and front.backend.stats().active == 0)
    caller.wire.set()
    assert read(caller)[:2] == (f"xyz{CLOSING}" + "d" * 100, "stop")


class SlowToReturn(ScriptedBackend):
    """An engine that makes many tokens before `submit` has returned."""

    def submit(self, request: EngineRequest, on_event: Callable[[TokenEvent], None]) -> Any:
        line = super().submit(request, on_event)
        steps = self.pulse()
        wait_until(lambda: self.pulse() > steps + 20 or self.stats().active == 0)
        return line


@pytest.mark.parametrize("thoughts", [1, 2000])
def test_thinking_is_closed_though_its_tokens_were_quicker_than_the_engines_handle(
    make_front: MakeFront, thoughts: int
) -> None:
    """With one thought the engine has ended by then, and no event of its own will come any more."""

    def script(request: EngineRequest) -> list[int]:
        return front.ids("4") if len(request.input_ids) > len(prompt) else front.ids("xyz") * thoughts

    front = make_front(script, backend=SlowToReturn, step_seconds=0.001)
    prompt = front.ids(PROMPT)
    text, reason, _ = read(front.ask(text_input=PROMPT, max_reasoning_tokens=3, max_tokens=1000))
    assert (text, reason) == (f"xyz{CLOSING}4", "stop")
    wait_until(lambda: front.backend.stats().active == 0)


@pytest.mark.parametrize("refuses", [False, True])
def test_an_engine_that_fails_in_the_second_phase_is_an_error_of_the_request(
    make_front: MakeFront, refuses: bool
) -> None:
    """It takes the request and fails, or does not even take it."""

    def fail() -> Iterator[int]:
        raise RuntimeError("out of rows")
        yield 70

    def script(request: EngineRequest) -> Iterator[int]:
        if len(request.input_ids) == len(prompt):
            return iter(lambda: 70, None)
        if refuses:
            raise EnginewrightError("the engine hangs", code="engine-stalled")
        return fail()

    front = make_front(script)
    prompt = front.ids(PROMPT)
    error = error_of(front.ask(text_input=PROMPT, max_reasoning_tokens=3, stream=True))
    assert error.code == ("engine-stalled" if refuses else "engine-failed")
    wait_until(lambda: front.backend.stats().active == 0)
    wait_until(lambda: front.metrics["enginewright_requests_total/failed"] == [1])


def test_many_at_once_each_get_their_own_answer(make_front: MakeFront) -> None:
    def script(request: EngineRequest) -> Iterator[int]:
        prompt = list(request.input_ids)
        if prompt[-len(closing) :] == closing:
            yield from prompt[:3]
            return
        while True:
            yield from prompt[:3]

    front = make_front(script, slots=3, max_queue=64)
    closing = front.ids(CLOSING)
    callers = {
        number: front.ask(text_input=f"{number:03}<think>\n", max_reasoning_tokens=number % 7, stream=True)
        for number in range(40)
    }
    for number, caller in callers.items():
        name = f"{number:03}"
        assert read(caller)[0] == (name * 3)[: number % 7] + CLOSING + name
