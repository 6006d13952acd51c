"""The engine from other threads: submit, cancel, refuse, fail, close. The fake model can be held still."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest
from enginewright_errors import StageFailed, UsageError
from enginewright_onnx.runtime import (
    Engine,
    GenerationRequest,
    QueueFull,
    RequestHandle,
    SamplingParams,
    TokenEvent,
)
from fake_model import FakeModel, fake_config

CONFIG = fake_config(slots=2, slot_tokens=128, prefill_chunk=8)
GREEDY = SamplingParams(max_tokens=12, temperature=0.0)


class Gate:
    """Holds the model before each call while closed, and says when a call has come to it."""

    def __init__(self) -> None:
        self.reached = threading.Semaphore(0)
        self.open = threading.Event()
        self.error: Exception | None = None

    def __call__(self, kind: str, rows: int, tokens: int) -> None:
        self.reached.release()
        self.open.wait(30)
        if self.error is not None:
            raise self.error


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def engine(gate: Gate) -> Iterator[Engine]:
    with Engine(FakeModel(CONFIG, gate), CONFIG, max_queue=3) as engine:
        yield engine
        gate.open.set()


def submit(engine: Engine, *tokens: int) -> tuple[RequestHandle, queue.SimpleQueue[TokenEvent]]:
    events: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()
    return engine.submit(GenerationRequest(str(tokens), tokens, GREEDY), events.put), events


def last(events: queue.SimpleQueue[TokenEvent]) -> TokenEvent:
    while True:
        event = events.get(timeout=30)
        if event.finish_reason is not None:
            return event


def test_many_threads_get_the_tokens_of_a_quiet_engine(engine: Engine, gate: Gate) -> None:
    gate.open.set()
    expected = {base: engine.generate([base, 2, 3], GREEDY).token_ids for base in range(1, 4)}
    answers: list[tuple[int, tuple[int, ...]]] = []

    def client(base: int) -> None:
        answers.extend((base, engine.generate([base, 2, 3], GREEDY).token_ids) for _ in range(20))

    threads = [threading.Thread(target=client, args=(base,)) for base in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 60
    assert all(tokens == expected[base] for base, tokens in answers)


def test_generate_returns_the_whole_answer(engine: Engine, gate: Gate) -> None:
    gate.open.set()
    answer = engine.generate([1, 2, 3], SamplingParams(5, 0.0, logprobs=True))
    assert (len(answer.token_ids), answer.finish_reason, answer.num_input_tokens) == (5, "length", 3)
    assert answer.logprobs is not None and len(answer.logprobs) == 5
    assert all(value <= 0 for value in answer.logprobs)


def test_a_wrong_request_is_refused_before_it_is_queued(engine: Engine) -> None:
    with pytest.raises(UsageError, match="input_ids"):
        submit(engine)
    assert engine.stats().waiting == 0


def test_a_full_queue_refuses_and_takes_again_when_there_is_room(engine: Engine, gate: Gate) -> None:
    running = [submit(engine, 1)]
    gate.reached.acquire(timeout=30)
    running += [submit(engine, index) for index in (2, 3, 4)]
    with pytest.raises(QueueFull, match="max_queue is 3") as caught:
        submit(engine, 5)
    assert caught.value.code == "queue-full"
    gate.open.set()
    assert {last(events).finish_reason for _, events in running} == {"length"}
    assert last(submit(engine, 1)[1]).finish_reason == "length"


def test_cancelling_works_while_the_model_runs_and_while_waiting(engine: Engine, gate: Gate) -> None:
    running, running_events = submit(engine, 1)
    gate.reached.acquire(timeout=30)
    waiting, waiting_events = submit(engine, 2)
    running.cancel()
    waiting.cancel()
    gate.open.set()
    assert last(running_events).finish_reason == "cancelled"
    assert last(waiting_events).finish_reason == "cancelled"
    stats = engine.stats()
    assert (stats.active, stats.waiting, stats.kv_tokens_used) == (0, 0, 0)
    running.cancel()
    assert engine.generate([3], GREEDY).finish_reason == "length"


def test_a_request_may_be_cancelled_from_its_own_event(engine: Engine, gate: Gate) -> None:
    gate.open.set()
    events: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()
    handles: list[RequestHandle] = []

    seen: list[TokenEvent] = []

    def stop_at_the_third(event: TokenEvent) -> None:
        seen.append(event)
        if len(seen) == 3:
            handles[0].cancel()
        events.put(event)

    gate.open.clear()
    handles.append(engine.submit(GenerationRequest("self", [1], GREEDY), stop_at_the_third))
    gate.open.set()
    assert last(events).finish_reason == "cancelled"
    assert engine.stats().generated_tokens == 3


def test_stats_count_what_happened(engine: Engine, gate: Gate) -> None:
    gate.open.set()
    engine.generate([1, 2, 3], GREEDY)
    engine.generate([4, 5], SamplingParams(1, 0.0))
    stats = engine.stats()
    assert (stats.healthy, stats.active, stats.waiting, stats.slots) == (True, 0, 0, 2)
    assert (stats.kv_tokens_used, stats.kv_tokens_capacity) == (0, 256)
    assert (stats.requests, stats.finished) == (2, {"length": 2})
    assert (stats.prompt_tokens, stats.reused_tokens, stats.generated_tokens) == (5, 0, 13)
    assert stats.steps >= 13


def test_stats_see_a_request_at_work(engine: Engine, gate: Gate) -> None:
    submit(engine, 1, 2, 3)
    gate.reached.acquire(timeout=30)
    submit(engine, 4)
    assert (engine.stats().active, engine.stats().waiting) == (1, 1)


def test_closing_ends_everything_with_cancelled_and_refuses_more(engine: Engine, gate: Gate) -> None:
    requests = [submit(engine, index) for index in (1, 2, 3)]
    gate.reached.acquire(timeout=30)
    gate.open.set()
    engine.close()
    engine.close()
    assert {last(events).finish_reason for _, events in requests} <= {"cancelled", "length"}
    with pytest.raises(StageFailed) as caught:
        submit(engine, 4)
    assert caught.value.code == "engine-closed"
    assert not any(thread.name == "enginewright-engine" for thread in threading.enumerate())


def test_closing_from_an_event_does_not_deadlock(engine: Engine, gate: Gate) -> None:
    gate.open.set()
    events: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()

    def close(event: TokenEvent) -> None:
        engine.close()
        events.put(event)

    engine.submit(GenerationRequest("closer", [1], GREEDY), close)
    assert last(events).finish_reason == "cancelled"


def test_a_model_that_fails_once_costs_its_requests_and_not_the_engine(engine: Engine, gate: Gate) -> None:
    gate.error = RuntimeError("bad allocation")
    _, events = submit(engine, 1)
    gate.reached.acquire(timeout=30)
    gate.open.set()
    event = last(events)
    assert event.finish_reason == "error" and "bad allocation" in (event.error or "")
    gate.error = None
    assert engine.generate([1], GREEDY).finish_reason == "length"
    assert engine.stats().healthy


def test_a_model_that_always_fails_breaks_the_engine_and_nobody_waits_for_ever(
    engine: Engine, gate: Gate
) -> None:
    gate.error = RuntimeError("bad allocation")
    requests = [submit(engine, 1)]
    gate.reached.acquire(timeout=30)
    requests += [submit(engine, index) for index in (2, 3, 4)]
    gate.open.set()
    assert {last(events).finish_reason for _, events in requests} == {"error"}
    engine._thread.join(30)
    assert not engine.stats().healthy
    with pytest.raises(StageFailed, match="bad allocation") as caught:
        submit(engine, 5)
    assert caught.value.code == "engine-broken"


def test_an_error_in_the_engine_itself_is_told_to_every_request(engine: Engine, gate: Gate) -> None:
    gate.open.set()

    def broken_policy() -> None:
        raise IndexError("a bug")

    engine._batcher.scheduler.next_step = broken_policy  # type: ignore[method-assign]
    _, events = submit(engine, 1)
    assert "a bug" in (last(events).error or "")


def test_an_idle_engine_takes_no_processor_time(engine: Engine, gate: Gate) -> None:
    gate.open.set()
    engine.generate([1, 2, 3], GREEDY)
    before = time.process_time()
    threading.Event().wait(0.3)
    assert time.process_time() - before < 0.1
