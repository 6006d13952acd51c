"""The batcher on a model that answers wrongly as soon as a row, a swap or a shared beginning is wrong."""

from __future__ import annotations

import gc
import random
import tracemalloc

import numpy as np
import pytest
from enginewright_errors import StageFailed
from enginewright_onnx.runtime import GenerationRequest, SamplingParams, TokenEvent
from enginewright_onnx.runtime.batcher import FAILURES_UNTIL_BROKEN, Batcher
from enginewright_onnx.runtime.sequence import Sequence, accept
from fake_model import FakeModel, fake_config
from hypothesis import given, settings
from hypothesis import strategies as st

CONFIG = fake_config(slots=4, slot_tokens=128, prefill_chunk=8)
GREEDY = SamplingParams(max_tokens=12, temperature=0.0)


class Listener:
    """Everything that one request was told."""

    def __init__(self) -> None:
        self.events: list[TokenEvent] = []

    def __call__(self, event: TokenEvent) -> None:
        assert self.finish_reason is None, "told after its end"
        self.events.append(event)

    @property
    def token_ids(self) -> list[int]:
        return [token for event in self.events for token in event.token_ids]

    @property
    def finish_reason(self) -> str | None:
        return self.events[-1].finish_reason if self.events else None


def submit(
    batcher: Batcher, input_ids: list[int], sampling: SamplingParams = GREEDY, long_context: bool = False
) -> tuple[Sequence, Listener]:
    listener = Listener()
    sequence = accept(GenerationRequest("r", input_ids, sampling, long_context), CONFIG, listener)
    batcher.add(sequence)
    return sequence, listener


def finish(batcher: Batcher) -> None:
    while batcher.busy:
        batcher.step()


def alone(input_ids: list[int], sampling: SamplingParams = GREEDY, long_context: bool = False) -> list[int]:
    """The tokens of a request that has the engine to itself."""
    batcher = Batcher(FakeModel(CONFIG), prefill_chunk=8, prefix_reuse=False)
    _, listener = submit(batcher, input_ids, sampling, long_context)
    finish(batcher)
    return listener.token_ids


prompts = st.builds(
    lambda shared, own: [1 + token % 96 for token in [*range(shared), *own]],
    st.sampled_from([0, 0, 20, 30]),
    st.lists(st.integers(0, 95), min_size=1, max_size=15),
)
samplings = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 12),
    temperature=st.sampled_from([0.0, 0.0, 1.0]),
    top_p=st.sampled_from([1.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    seed=st.integers(0, 5),
)


@settings(deadline=None, max_examples=200)
@given(
    requests=st.lists(
        st.tuples(prompts, samplings, st.booleans(), st.integers(0, 8)), min_size=1, max_size=14
    ),
    cancelled=st.dictionaries(st.integers(0, 13), st.integers(0, 10)),
    reuse=st.booleans(),
)
def test_tokens_do_not_depend_on_who_runs_beside_comes_or_is_cancelled(
    requests: list[tuple[list[int], SamplingParams, bool, int]], cancelled: dict[int, int], reuse: bool
) -> None:
    batcher = Batcher(FakeModel(CONFIG), prefill_chunk=8, prefix_reuse=reuse)
    running = []
    for index, (prompt, sampling, long_context, steps) in enumerate(requests):
        running.append(submit(batcher, prompt, sampling, long_context))
        for step in range(steps):
            if cancelled.get(index) == step:
                batcher.cancel(running[index][0])
            batcher.step()
    finish(batcher)
    for (prompt, sampling, long_context, _), (_, listener) in zip(requests, running, strict=True):
        expected = alone(prompt, sampling, long_context)
        if listener.finish_reason == "cancelled":
            expected = expected[: len(listener.token_ids)]
        else:
            assert listener.finish_reason == ("stop" if expected[-1] == 0 else "length")
        assert listener.token_ids == expected
    assert batcher.scheduler.slots.free == 4


def test_a_reused_beginning_is_not_computed_again() -> None:
    model = FakeModel(CONFIG)
    batcher = Batcher(model, prefill_chunk=8)
    first = [1 + token for token in range(30)]
    _, listener = submit(batcher, first)
    finish(batcher)
    turn = [*first, *listener.token_ids, 5, 6, 7]
    model.calls.clear()
    _, listener = submit(batcher, turn)
    finish(batcher)
    assert sum(tokens for kind, _, tokens in model.calls if kind == "prefill") == 4
    assert batcher.reused_tokens == len(turn) - 4
    assert listener.token_ids == alone(turn)


def test_equal_prompts_that_arrive_together_are_computed_once() -> None:
    model = FakeModel(CONFIG)
    batcher = Batcher(model, prefill_chunk=8)
    listeners = [submit(batcher, [1 + token for token in range(40)])[1] for _ in range(4)]
    finish(batcher)
    assert sum(tokens for kind, _, tokens in model.calls if kind == "prefill") == 40 + 3
    assert {tuple(listener.token_ids) for listener in listeners} == {tuple(alone([1 + t for t in range(40)]))}


def test_every_request_has_exactly_one_last_event_with_its_clock() -> None:
    batcher = Batcher(FakeModel(CONFIG), prefill_chunk=8)
    _, listener = submit(batcher, [1, 2, 3])
    finish(batcher)
    assert [event.finish_reason for event in listener.events[:-1]] == [None] * (len(listener.events) - 1)
    times = listener.events[-1].times
    assert times is not None
    assert 0 < times.arrival_ns <= times.first_scheduled_ns <= times.first_token_ns < times.last_token_ns
    assert all(event.num_input_tokens == 3 for event in listener.events)


def test_a_stop_id_ends_the_request_and_is_its_last_token() -> None:
    tokens = alone([1, 2, 3])
    batcher = Batcher(FakeModel(CONFIG), prefill_chunk=8)
    _, listener = submit(batcher, [1, 2, 3], SamplingParams(12, 0.0, stop_token_ids=(tokens[4],)))
    finish(batcher)
    assert listener.token_ids == tokens[: tokens.index(tokens[4]) + 1]
    assert listener.finish_reason == "stop"


def test_a_single_token_needs_no_decode_step() -> None:
    model = FakeModel(CONFIG)
    batcher = Batcher(model, prefill_chunk=8)
    _, listener = submit(batcher, [1, 2, 3], SamplingParams(1, 0.0))
    finish(batcher)
    assert (listener.token_ids, listener.finish_reason) == (alone([1, 2, 3])[:1], "length")
    assert [kind for kind, _, _ in model.calls] == ["prefill"]


@pytest.mark.parametrize("when", ["waiting", "prefilling", "decoding"])
def test_cancelling_takes_effect_before_the_next_step_and_frees_the_row(when: str) -> None:
    model = FakeModel(CONFIG)
    batcher = Batcher(model, prefill_chunk=8)
    steps = {"waiting": 0, "prefilling": 1, "decoding": 4}[when]
    sequence, listener = submit(batcher, [1] * 20)
    for _ in range(steps):
        batcher.step()
    calls = len(model.calls)
    batcher.cancel(sequence)
    batcher.cancel(sequence)
    finish(batcher)
    assert listener.finish_reason == "cancelled"
    assert (len(model.calls), batcher.scheduler.slots.free) == (calls, 4)
    assert batcher.finished == {"cancelled": 1}


def test_a_row_that_cannot_be_sampled_ends_only_its_own_request() -> None:
    batcher = Batcher(FakeModel(CONFIG), prefill_chunk=8)
    everything = tuple((token,) for token in range(97))
    _, bad = submit(batcher, [1, 2], SamplingParams(5, bad_token_sequences=everything))
    _, good = submit(batcher, [3, 4])
    finish(batcher)
    assert bad.finish_reason == "error" and "leave no token" in (bad.events[-1].error or "")
    assert good.token_ids == alone([3, 4])


def failing(at: set[int], kind: str | None = None):
    """A `before_call` that raises at the given calls (counted among those of `kind`)."""
    seen = [0]

    def before_call(this_kind: str, rows: int, tokens: int) -> None:
        if kind in (None, this_kind):
            seen[0] += 1
            if seen[0] in at:
                raise RuntimeError("out of memory")

    return before_call


def test_a_failing_prefill_ends_only_the_request_it_was_for() -> None:
    batcher = Batcher(FakeModel(CONFIG, failing({2}, "prefill")), prefill_chunk=8)
    listeners = [submit(batcher, [index, 2, 3])[1] for index in (1, 2, 3)]
    finish(batcher)
    assert [listener.finish_reason for listener in listeners] == ["length", "error", "length"]
    assert "out of memory" in (listeners[1].events[-1].error or "")


def test_a_failing_decode_step_ends_those_in_it_and_the_next_request_runs() -> None:
    batcher = Batcher(FakeModel(CONFIG, failing({4}, "decode")), prefill_chunk=8)
    listeners = [submit(batcher, [index, 2, 3])[1] for index in (1, 2)]
    while not all(listener.finish_reason for listener in listeners):
        batcher.step()
    assert [listener.finish_reason for listener in listeners] == ["error", "error"]
    _, listener = submit(batcher, [1, 2, 3])
    finish(batcher)
    assert listener.token_ids == alone([1, 2, 3])
    assert batcher.scheduler.slots.free == 4


def test_the_content_of_a_row_is_not_reused_after_a_failure_in_it() -> None:
    batcher = Batcher(FakeModel(CONFIG, failing({4}, "decode")), prefill_chunk=8)
    submit(batcher, [1 + token for token in range(30)])
    finish(batcher)
    submit(batcher, [1 + token for token in range(30)])
    finish(batcher)
    assert batcher.reused_tokens == 0


def test_calls_that_fail_again_and_again_break_the_engine() -> None:
    batcher = Batcher(FakeModel(CONFIG, failing(set(range(100)))), prefill_chunk=8)
    listeners = [submit(batcher, [1, 2, 3])[1] for _ in range(5)]
    with pytest.raises(StageFailed, match="out of memory") as caught:
        finish(batcher)
    assert caught.value.code == "engine-broken"
    assert [listener.finish_reason for listener in listeners].count("error") == FAILURES_UNTIL_BROKEN


def test_failures_with_successes_between_them_do_not_break_the_engine() -> None:
    batcher = Batcher(FakeModel(CONFIG, failing(set(range(2, 100)), "prefill")), prefill_chunk=8)
    _, streaming = submit(batcher, [1, 2, 3])
    others = [submit(batcher, [index, 2, 3])[1] for index in range(4, 4 + FAILURES_UNTIL_BROKEN + 1)]
    finish(batcher)
    assert streaming.token_ids == alone([1, 2, 3])
    assert {listener.finish_reason for listener in others} == {"error"}


def test_a_listener_that_fails_is_cancelled_alone(caplog: pytest.LogCaptureFixture) -> None:
    batcher = Batcher(FakeModel(CONFIG), prefill_chunk=8)

    def broken(event: TokenEvent) -> None:
        raise ValueError("client went away")

    batcher.add(accept(GenerationRequest("gone", [1, 2], GREEDY), CONFIG, broken))
    _, listener = submit(batcher, [3, 4])
    finish(batcher)
    assert listener.token_ids == alone([3, 4])
    assert batcher.finished == {"cancelled": 1, "length": 1}
    assert [record.exc_info is not None for record in caplog.records] == [True]


@pytest.mark.parametrize("reuse", [False, True])
def test_ten_thousand_starts_and_cancels_lose_no_row_and_no_memory(reuse: bool) -> None:
    chance = random.Random(1)
    model = FakeModel(CONFIG)
    batcher = Batcher(model, prefill_chunk=8, prefix_reuse=reuse)
    alive: list[Sequence] = []
    measured = []
    tracemalloc.start()
    for cycle in range(10_000):
        prompt = [1 + chance.randrange(3)] * chance.randint(1, 20)
        sequence = accept(
            GenerationRequest("r", np.array(prompt, np.int32), SamplingParams(12, 0.0)),
            CONFIG,
            lambda event: None,
        )
        batcher.add(sequence)
        alive.append(sequence)
        batcher.step()
        if len(alive) > 6:
            batcher.cancel(alive.pop(chance.randrange(len(alive))))
        if cycle in (5_000, 9_999):
            model.calls.clear()
            gc.collect()
            measured.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    for sequence in alive:
        batcher.cancel(sequence)
    assert batcher.scheduler.slots.free == 4
    assert (batcher.busy, batcher.scheduler.slots.tokens_used) == (False, 0)
    assert batcher.requests == sum(batcher.finished.values()) == 10_000
    # Ten bytes a cycle: no object is so small, and other threads of the process allocate as well.
    assert measured[1] - measured[0] < 50_000
