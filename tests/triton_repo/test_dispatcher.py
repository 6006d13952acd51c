"""Requests side by side: answers, order, limits, cancellation, and an engine that fails or hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enginewright_errors import EnginewrightError
from enginewright_front.backend import EngineLimits, EngineRequest
from enginewright_front.front_config import FrontConfig, FrontLimits
from enginewright_front.prompt import read_tokenizer
from enginewright_front.scripted_backend import Script, ScriptedBackend, echo
from triton_repo.front_under_test import PROBE_ID, WAIT_SECONDS, Caller, FrontUnderTest, wire_tensors

EMOJI = "Hi 👨‍👩‍👧‍👦, 日本語!"
MakeFront = Callable[..., FrontUnderTest]


@pytest.fixture
def make_front(checkpoint: Path) -> Iterator[MakeFront]:
    """`make_front(script, slots=2, max_queue=4, ...)`: closed at the end of the test."""
    made: list[FrontUnderTest] = []

    def make(
        script: Script = echo, *, slots: int = 2, step_seconds: float = 0.0, **limits: Any
    ) -> FrontUnderTest:
        backend = ScriptedBackend(
            script,
            limits=EngineLimits(max_seq_len=2048, slots=slots, vocab_size=500),
            step_seconds=step_seconds,
        )
        config = FrontConfig("m", limits=FrontLimits(**limits))
        made.append(FrontUnderTest(checkpoint, backend, config))
        return made[-1]

    yield make
    for front in made:
        front.dispatcher.close()


def forever(request: EngineRequest) -> Iterator[int]:
    while True:
        yield 70


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for another thread, at most WAIT_SECONDS."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.002)


def error_of(caller: Caller) -> EnginewrightError:
    with pytest.raises(EnginewrightError) as caught:
        list(caller.answers())
    return caught.value


class SlowCaller(Caller):
    """Whose wire takes nothing until `wire` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = threading.Event()

    def send(self, tensors: dict[str, np.ndarray], *, final: bool) -> None:
        assert self.wire.wait(WAIT_SECONDS)
        super().send(tensors, final=final)


def finish_of(caller: Caller) -> bytes:
    return list(caller.answers())[-1]["finish_reason"][0]


def test_a_request_that_does_not_stream_gets_one_response_with_everything(make_front: MakeFront) -> None:
    front = make_front()
    [answer] = front.ask(text_input=EMOJI).answers()
    assert answer["text_output"].shape == (1,)
    assert answer["text_output"][0].decode() == EMOJI
    assert answer["finish_reason"].tolist() == [b"stop"]
    prompt = len(front.ids(EMOJI))
    assert answer["num_input_tokens"].tolist() == [[prompt]]
    assert answer["num_output_tokens"].tolist() == [[prompt + 1]], "the end token counts"


def test_streamed_deltas_joined_are_the_same_text(make_front: MakeFront) -> None:
    front = make_front(step_seconds=0.0005)
    answers = list(front.ask(text_input=EMOJI, stream=True).answers())
    texts = [answer["text_output"][0].decode() for answer in answers]
    assert "".join(texts) == EMOJI
    assert len(answers) > 3
    assert not any("\ufffd" in text for text in texts)
    assert all("finish_reason" not in answer for answer in answers[:-1])
    assert answers[-1]["finish_reason"].tolist() == [b"stop"]


def test_tokens_that_are_ready_go_out_together(make_front: MakeFront) -> None:
    """While one response is on its way to a slow wire, an engine makes many tokens: they are one response."""
    front = make_front(lambda request: [70] * 500)
    caller = SlowCaller()
    front.dispatcher.admit(
        wire_tensors({"text_input": "x", "stream": True, "max_tokens": 500}), "", "", caller
    )
    wait_until(lambda: front.backend.submitted != [] and front.backend.stats().active == 0)
    caller.wire.set()
    answers = list(caller.answers())
    assert sum(len(answer["text_output"][0]) for answer in answers) == 500
    assert len(answers) == 2


def test_max_tokens_ends_with_length(make_front: MakeFront) -> None:
    [answer] = make_front(forever).ask(text_input="x", max_tokens=7).answers()
    assert answer["finish_reason"].tolist() == [b"length"]
    assert answer["num_output_tokens"].tolist() == [[7]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_word_ends_the_text_and_frees_the_engine(make_front: MakeFront, stream: bool) -> None:
    def script(request: EngineRequest) -> Iterator[int]:
        yield from front.ids("one two <stop> three")
        yield from forever(request)

    front = make_front(script)
    answers = list(front.ask(text_input="x", stream=stream, stop_words=["<stop>"], max_tokens=1000).answers())
    assert "".join(answer["text_output"][0].decode() for answer in answers) == "one two "
    assert answers[-1]["finish_reason"].tolist() == [b"stop"]
    assert answers[-1]["num_output_tokens"][0, 0] == len(front.ids("one two <stop>"))
    wait_until(lambda: front.backend.stats().active == 0)


def test_the_prompt_is_echoed_only_when_asked_for_and_not_streaming(make_front: MakeFront) -> None:
    front = make_front(lambda request: front.ids("out"))
    asked = {"text_input": "in ", "exclude_input_in_output": False}
    assert front.ask(**asked).text() == "in out"
    assert front.ask(**asked, stream=True).text() == "out"
    assert front.ask(text_input="in ").text() == "out"
    assert (
        front.ask(messages='[{"role":"user","content":"in"}]', exclude_input_in_output=False).text() == "out"
    )


def test_log_probs_cover_every_token_once(make_front: MakeFront) -> None:
    front = make_front(step_seconds=0.0005)
    tokens = len(front.ids(EMOJI)) + 1
    answers = list(front.ask(text_input=EMOJI, stream=True, return_log_probs=True).answers())
    assert all(answer["output_log_probs"].shape[:2] == (1, 1) for answer in answers)
    assert sum(answer["output_log_probs"].shape[2] for answer in answers) == tokens
    assert answers[-1]["cum_log_probs"].tolist() == [[-0.5 * tokens]]


def test_perf_metrics_are_in_every_response_and_in_order(make_front: MakeFront) -> None:
    front = make_front(step_seconds=0.001)
    answers = list(front.ask(text_input=EMOJI, stream=True, return_perf_metrics=True).answers())
    for answer in answers:
        assert answer["arrival_time_ns"][0, 0] <= answer["first_token_time_ns"][0, 0]
        assert answer["first_token_time_ns"][0, 0] <= answer["last_token_time_ns"][0, 0]
        assert answer["kv_cache_alloc_new_blocks"].tolist() == [[0]]
        assert answer["acceptance_rate"].tolist() == [[0.0]]
    assert answers[-1]["arrival_time_ns"][0, 0] <= answers[-1]["first_scheduled_time_ns"][0, 0]


@pytest.mark.parametrize("name", ["finish_reason", "num_input_tokens", "num_output_tokens"])
def test_return_flags_add_and_remove_outputs(make_front: MakeFront, name: str) -> None:
    front = make_front(step_seconds=0.0005)
    without = list(front.ask(text_input=EMOJI, stream=True, **{f"return_{name}": False}).answers())
    assert not any(name in answer for answer in without)
    given = list(front.ask(text_input=EMOJI, stream=True, **{f"return_{name}": True}).answers())
    assert name in given[-1]
    if name != "finish_reason":
        assert all(name in answer for answer in given)


def test_many_requests_at_once_each_get_their_own_text(make_front: MakeFront) -> None:
    front = make_front(slots=4, max_queue=64)
    callers = {f"{n}:{EMOJI * (n % 5 + 1)}": None for n in range(60)}
    asked = {text: front.ask(text_input=text, stream=len(text) % 2 == 0) for text in callers}
    assert {text: caller.text() for text, caller in asked.items()} == {text: text for text in asked}


def test_a_full_queue_refuses_and_serves_on(make_front: MakeFront) -> None:
    front = make_front(forever, slots=1, max_queue=2, step_seconds=0.001)
    callers = [front.ask(text_input="x", max_tokens=2000) for _ in range(3)]
    refused = front.ask(text_input="x")
    assert error_of(refused).code == "queue-full"
    for caller in callers:
        caller.gave_up = True
    for caller in callers:
        assert finish_of(caller) == b"cancelled"
    assert front.ask(text_input="x", max_tokens=2).text() == "dd"


@pytest.mark.parametrize("slots", [1, 2])
def test_a_caller_that_gives_up_frees_its_place_within_a_moment(make_front: MakeFront, slots: int) -> None:
    """With one slot the second request is still waiting: giving up must not need a token."""
    front = make_front(forever, slots=slots, step_seconds=0.005)
    running, other = (front.ask(text_input="x", max_tokens=2000) for _ in range(2))
    wait_until(lambda: len(front.backend.submitted) == 2)
    started = time.monotonic()
    other.gave_up = True
    assert finish_of(other) == b"cancelled"
    assert time.monotonic() - started < 5.0  # to the end it takes 10
    running.gave_up = True
    assert finish_of(running) == b"cancelled"
    wait_until(lambda: front.backend.stats().active == 0)
    freed = "enginewright_cancellation_seconds"
    wait_until(lambda: len(front.metrics.get(freed, [])) == 2)
    assert max(front.metrics[freed]) < 1.0


def test_cancel_ends_the_requests_of_that_id_alone(make_front: MakeFront) -> None:
    front = make_front(forever, step_seconds=0.001)
    mine, other = (
        front.ask("mine", text_input="x", max_tokens=2000),
        front.ask("other", text_input="x", max_tokens=90),
    )
    [answer] = front.ask("mine", cancel=True).answers()
    assert answer["finish_reason"].tolist() == [b"cancelled"]
    [answer] = mine.answers()
    assert answer["finish_reason"].tolist() == [b"cancelled"]
    assert answer["text_output"][0] == b"d" * (answer["num_output_tokens"][0, 0])
    assert other.text() == "d" * 90
    assert "cancel has no request id" in error_of(front.ask(cancel=True)).message


def test_a_key_tells_requests_of_one_id_apart(make_front: MakeFront) -> None:
    """Callers may give the same id to several requests, and a stranger may know it."""
    front = make_front(forever, step_seconds=0.001)
    mine, other, keyless = (
        front.ask("same", text_input="x", max_tokens=90 if key != 1 else 2000, **keys)
        for key in (1, 2**64 - 1, None)
        for keys in ({"cancel_key": key} if key else {},)
    )
    for key in (3, 1):
        [answer] = front.ask("same", cancel=True, cancel_key=key).answers()
        assert answer["finish_reason"].tolist() == [b"cancelled"]
    assert finish_of(mine) == b"cancelled"
    assert other.text() == keyless.text() == "d" * 90


def test_an_engine_that_fails_one_request_serves_the_others(make_front: MakeFront) -> None:
    def script(request: EngineRequest) -> Iterator[int]:
        yield 70
        if len(request.input_ids) == 1:
            raise ValueError("NaN in the logits")

    front = make_front(script)
    failed = front.ask(text_input="x", stream=True)
    assert front.ask(text_input="a longer prompt").text() == "d"
    error = error_of(failed)
    assert error.code == "engine-failed"
    assert "NaN in the logits" in error.message


def test_an_engine_that_cannot_take_a_request_fails_it_and_serves_on(make_front: MakeFront) -> None:
    def script(request: EngineRequest) -> list[int]:
        if len(request.input_ids) == 1:
            raise RuntimeError("out of rows")
        return [70]

    front = make_front(script)
    assert error_of(front.ask(text_input="x")).code == "internal-error"
    assert "out of rows" in front.log[0]
    assert front.ask(text_input="a longer prompt").text() == "d"


def test_a_hung_engine_fails_every_request_and_refuses_new_ones(make_front: MakeFront) -> None:
    front = make_front(forever, slots=1, stall_seconds=0.2, step_seconds=0.001)
    callers = [front.ask(text_input="x", stream=stream, max_tokens=2000) for stream in (True, False)]
    wait_until(lambda: not callers[0].nothing_came)
    front.backend.hang()
    assert [error_of(caller).code for caller in callers] == ["engine-stalled", "engine-stalled"]
    assert error_of(front.ask(text_input="x")).code == "engine-stalled"


def test_a_request_that_nobody_can_cancel_ends_at_the_time_limit(make_front: MakeFront) -> None:
    front = make_front(forever, max_seconds=0.2, step_seconds=0.001)
    assert error_of(front.ask(text_input="x", max_tokens=2000)).code == "request-time-limit"
    wait_until(lambda: front.backend.stats().active == 0)


def test_closing_ends_every_request_with_a_typed_error(checkpoint: Path) -> None:
    backend = ScriptedBackend(forever, step_seconds=0.001)
    front = FrontUnderTest(checkpoint, backend, FrontConfig("m"))
    callers = [front.ask(text_input="x", max_tokens=2000) for _ in range(6)]
    front.dispatcher.close()
    assert {error_of(caller).code for caller in callers} == {"shutting-down"}
    assert error_of(front.ask(text_input="x")).code == "shutting-down"


def test_a_refused_request_never_reaches_the_engine(make_front: MakeFront) -> None:
    front = make_front()
    for values in (
        {"text_input": ""},
        {"text_input": "x", "max_tokens": 0},
        {"text_input": "x", "top_k": 501},
    ):
        assert error_of(front.ask(**values)).code == "invalid-request"
    assert front.backend.submitted == []


def test_metrics_tell_outcomes_tokens_and_delays(make_front: MakeFront) -> None:
    front = make_front(step_seconds=0.001)
    front.ask(text_input=EMOJI).text()
    error_of(front.ask(text_input=""))
    tokens = len(front.ids(EMOJI))
    wait_until(lambda: front.metrics["enginewright_requests_total/refused"] != [])
    wait_until(lambda: front.metrics["enginewright_time_to_first_token_seconds"] != [])
    assert front.metrics["enginewright_requests_total/completed"] == [1]
    assert front.metrics["enginewright_requests_total/refused"] == [1]
    assert front.metrics["enginewright_tokens_total/prompt"] == [tokens]
    assert front.metrics["enginewright_tokens_total/output"] == [tokens + 1]
    assert 0 < front.metrics["enginewright_time_to_first_token_seconds"][0] < WAIT_SECONDS
    assert front.metrics["enginewright_failures_total/invalid-request"] == [1]
    assert len(front.metrics["enginewright_queue_seconds"]) == 1
    assert len(front.metrics["enginewright_request_seconds"]) == 2
    wait_until(lambda: front.metrics["enginewright_requests_active"][-1] == 0)


def test_every_gap_between_tokens_is_counted_once(make_front: MakeFront) -> None:
    front = make_front(step_seconds=0.001)
    front.ask(text_input=EMOJI).text()
    tokens = len(front.ids(EMOJI)) + 1
    name = "enginewright_inter_token_seconds"
    wait_until(lambda: front.metrics["enginewright_requests_total/completed"] == [1])
    assert sum(front.metrics[f"{name}_count"]) == tokens - 1
    assert sum(front.metrics[f"{name}_bucket/+Inf"]) == tokens - 1
    assert sum(front.metrics[f"{name}_sum"]) >= 0.001 * (tokens - 1) * 0.9
    below = [sum(values) for key, values in front.metrics.items() if key.startswith(f"{name}_bucket/")]
    assert below == sorted(below)


def test_the_supervisors_probe_is_nobodys_request(make_front: MakeFront) -> None:
    front = make_front()
    assert front.ask(PROBE_ID, text_input=EMOJI).text() == EMOJI
    assert error_of(front.ask(PROBE_ID, text_input="")).code == "invalid-request"
    front.ask("mine", text_input="x").text()
    wait_until(lambda: front.metrics["enginewright_requests_total/completed"] == [1])
    assert not front.metrics["enginewright_requests_total/refused"]
    assert sum(front.metrics["enginewright_tokens_total/output"]) == 2
    assert len(front.metrics["enginewright_request_seconds"]) == 1


def test_the_front_shows_that_it_lives_while_its_engine_makes_no_step(make_front: MakeFront) -> None:
    """By this the supervisor tells a long prefill from a hung process."""
    front = make_front(forever)
    caller = front.ask(text_input="x", max_tokens=2000)
    front.backend.hang()
    reports = front.metrics["enginewright_alive_timestamp_seconds"]
    for _ in range(2):
        seen = reports[-1] if reports else 0.0
        wait_until(lambda seen=seen: bool(reports) and reports[-1] > seen)
    caller.gave_up = True
    assert finish_of(caller) == b"cancelled"


def test_answers_that_are_stuck_stop_the_sign_of_life(make_front: MakeFront) -> None:
    """Triton may block a response for ever; the load would go on being shown."""
    front = make_front(forever)
    stuck = StuckCaller()
    front.dispatcher.admit(
        wire_tensors({"text_input": "x", "max_tokens": 2000, "stream": True}), "", "", stuck
    )
    alive = front.metrics["enginewright_alive_timestamp_seconds"]
    wait_until(lambda: stuck.sending.is_set())
    wait_until(lambda: len(alive) >= 3 and alive[-1] == alive[-2])
    stuck.released.set()
    stuck.gave_up = True


class StuckCaller(Caller):
    """Its responses do not come through until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.sending, self.released = threading.Event(), threading.Event()

    def send(self, tensors: dict[str, np.ndarray], *, final: bool) -> None:
        self.sending.set()
        self.released.wait(WAIT_SECONDS)
        super().send(tensors, final=final)


def test_ids_behind_the_vocabulary_are_silent(make_front: MakeFront, checkpoint: Path) -> None:
    """A model's embedding is padded, and the front keeps placeholders of its own behind the vocabulary."""
    first = read_tokenizer(checkpoint).get_vocab_size()
    front = make_front(lambda request: [*front.ids("a"), *range(first, 500), *front.ids("b")])
    assert front.tokenizer.id_to_token(first) is not None, "no placeholder where one is expected"
    assert front.ask(text_input="x", max_tokens=200).text() == "ab"


def test_nothing_but_valid_utf8_goes_out(make_front: MakeFront) -> None:
    rng = np.random.default_rng(0)
    front = make_front(lambda request: [int(token) for token in rng.integers(3, 386, 600)])
    for stream in (False, True):
        for answer in front.ask(text_input="x", stream=stream, max_tokens=600).answers():
            answer["text_output"][0].decode("utf-8")


def test_the_load_that_is_shown_falls_to_zero_when_the_engine_is_slow_to_free_a_slot(
    make_front: MakeFront,
) -> None:
    front = make_front(forever, step_seconds=0.3)
    caller = front.ask(text_input="x", max_tokens=2000)
    shown = front.metrics["enginewright_requests_active"]
    wait_until(lambda: shown[-1] == 1)
    caller.gave_up = True
    assert finish_of(caller) == b"cancelled"
    wait_until(lambda: shown[-1] == 0)
