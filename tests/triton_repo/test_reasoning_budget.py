"""max_reasoning_tokens: thinking that is too long is closed, the answer follows, and nobody else notices."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from enginewright_errors import EnginewrightError
from enginewright_front.backend import EngineHandle, EngineLimits, EngineRequest, TokenEvent
from enginewright_front.front_config import FrontConfig, FrontLimits, Reasoning
from enginewright_front.reasoning_budget import ReasoningBudget, ReasoningMeter
from enginewright_front.scripted_backend import ScriptedBackend
from hypothesis import given
from hypothesis import strategies as st
from triton_repo.front_under_test import WAIT_SECONDS, Caller, FrontUnderTest, wire_tensors
from triton_repo.test_dispatcher import SlowCaller
from triton_repo.test_trtllm_inputs import NEUTRAL

MARKERS = Reasoning("<think>", "</think>", opened_by_template=True)
PROMPT = "2 and 2?<think>\n"
CLOSING = "</think>\n\n"
MakeFront = Callable[..., FrontUnderTest]


@pytest.fixture
def make_front(checkpoint: Path) -> Iterator[MakeFront]:
    """`make_front(script, slots=2, ...)`: closed at the end of the test."""
    made: list[FrontUnderTest] = []

    def make(
        script: Callable[[EngineRequest], Iterable[int]],
        *,
        reasoning: Reasoning | None = MARKERS,
        backend: type[ScriptedBackend] = ScriptedBackend,
        slots: int = 2,
        step_seconds: float = 0.0,
        **limits: Any,
    ) -> FrontUnderTest:
        engine = backend(
            script,
            limits=EngineLimits(max_seq_len=2048, slots=slots, vocab_size=500),
            step_seconds=step_seconds,
        )
        config = FrontConfig("m", limits=FrontLimits(**limits), reasoning=reasoning)
        made.append(FrontUnderTest(checkpoint, engine, config))
        return made[-1]

    yield make
    for front in made:
        front.dispatcher.close()


@pytest.fixture
def thinker(make_front: MakeFront) -> Callable[..., FrontUnderTest]:
    """A model that thinks `thought` again and again until somebody closes it, then says `answer`."""

    def make(thought: str = "so, ", answer: str = "4", **options: Any) -> FrontUnderTest:
        def script(request: EngineRequest) -> Iterator[int]:
            closing = tuple(front.ids(CLOSING))
            if request.input_ids[-len(closing) :] == closing:
                yield from front.ids(answer)
                return
            while True:
                yield from front.ids(thought)

        front = make_front(script, **options)
        return front

    return make


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.002)


def read(caller: Caller) -> tuple[str, str, int]:
    """(text, finish reason, output tokens) of a whole answer."""
    answers = list(caller.answers())
    text = "".join(answer["text_output"][0].decode() for answer in answers)
    return text, answers[-1]["finish_reason"][0].decode(), int(answers[-1]["num_output_tokens"][0, 0])


def error_of(caller: Caller) -> EnginewrightError:
    with pytest.raises(EnginewrightError) as caught:
        list(caller.answers())
    return caught.value


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("budget", [1, 7, 50])
def test_thinking_is_closed_at_the_budget_and_the_answer_follows(
    thinker: MakeFront, budget: int, stream: bool
) -> None:
    front = thinker()
    thought = (front.ids("so, ") * budget)[:budget]
    closing = front.ids(CLOSING)
    caller = front.ask(text_input=PROMPT, max_reasoning_tokens=budget, stream=stream, max_tokens=100)
    text, reason, tokens = read(caller)
    assert text == front.tokenizer.decode(thought) + CLOSING + "4"
    assert reason == "stop"
    assert tokens == budget + len(closing) + len(front.ids("4")) + 1
    first, second = front.backend.submitted
    assert second.input_ids == (*first.input_ids, *thought, *closing)
    assert second.sampling == replace(first.sampling, max_tokens=100 - budget - len(closing))
    wait_until(lambda: front.backend.stats().active == 0)


def test_messages_are_limited_where_the_template_opens_the_thinking(thinker: MakeFront) -> None:
    front = thinker()
    text, _, _ = read(front.ask(messages='[{"role": "user", "content": "2 and 2?"}]', max_reasoning_tokens=4))
    assert text == front.tokenizer.decode((front.ids("so, ") * 4)[:4]) + CLOSING + "4"


def test_what_the_prompt_has_is_counted_once(thinker: MakeFront) -> None:
    front = thinker()
    [answer] = front.ask(text_input=PROMPT, max_reasoning_tokens=9).answers()
    assert answer["num_input_tokens"].tolist() == [[len(front.ids(PROMPT))]]
    wait_until(lambda: front.metrics["enginewright_requests_total/completed"] == [1])
    wait_until(lambda: front.metrics["enginewright_time_to_first_token_seconds"] != [])
    wait_until(lambda: front.metrics["enginewright_tokens_total/prompt"] == [len(front.ids(PROMPT))])
    assert front.metrics["enginewright_tokens_total/output"] == [answer["num_output_tokens"][0, 0]]
    assert len(front.metrics["enginewright_time_to_first_token_seconds"]) == 1


def test_no_thinking_at_all_is_closed_before_the_engine_is_asked(thinker: MakeFront) -> None:
    front = thinker()
    text, reason, tokens = read(front.ask(text_input=PROMPT, max_reasoning_tokens=0, stream=True))
    assert (text, reason) == (f"{CLOSING}4", "stop")
    assert tokens == len(front.ids(CLOSING)) + len(front.ids("4")) + 1
    [only] = front.backend.submitted
    assert only.input_ids == tuple(front.ids(PROMPT) + front.ids(CLOSING))
    wait_until(lambda: front.metrics["enginewright_tokens_total/prompt"] == [len(front.ids(PROMPT))])


@pytest.mark.parametrize(
    ("prompt", "output"),
    [
        (PROMPT, "so</think>\n\n4 and <think> and much more of it"),
        ("2 and 2?", "4, which needs no thinking at all"),
        ("<think>so</think>\n\n", "4, and much more of it"),
        ("2 and 2?", "I write <think> where I do not think"),
        ("2 and 2?", "<think>so</think>\n\n4 and <think> again"),
    ],
)
def test_thinking_that_is_closed_in_time_is_not_touched(
    make_front: MakeFront, prompt: str, output: str
) -> None:
    front = make_front(lambda request: front.ids(output))
    limited = read(front.ask(text_input=prompt, max_reasoning_tokens=4))
    assert limited == read(front.ask(text_input=prompt))
    assert limited[0] == output
    first, second = front.backend.submitted
    assert first == second


def test_a_model_without_reasoning_is_not_touched(thinker: MakeFront) -> None:
    front = thinker(reasoning=None)
    text, reason, _ = read(front.ask(text_input=PROMPT, max_reasoning_tokens=4, max_tokens=60))
    assert CLOSING not in text
    assert reason == "length"
    assert len(front.backend.submitted) == 1


@pytest.mark.parametrize(
    ("beginning", "budget", "thinking"),
    [
        (["<think>"], 0, "<think>"),
        (["<think>"], 3, "<think>xxx"),
        (["\n ", "<think>", "\n"], 3, "\n <think>\nxx"),
        (["<thi", "nk>"], 3, "<think>xxx"),
        ([" ", *"<think>"], 1, " <think>x"),
    ],
)
def test_a_model_that_opens_the_thinking_itself_is_limited_behind_its_marker(
    make_front: MakeFront, beginning: list[str], budget: int, thinking: str
) -> None:
    def script(request: EngineRequest) -> Iterator[int]:
        if list(request.input_ids[-len(closing) :]) == closing:
            yield from front.ids("4")
            return
        for text in beginning:
            yield from front.ids(text)
        while True:
            yield from front.ids("x")

    front = make_front(script, reasoning=Reasoning("<think>", "</think>", opened_by_template=False))
    closing = front.ids(CLOSING)
    text, reason, _ = read(front.ask(text_input="2 and 2?", max_reasoning_tokens=budget))
    assert (text, reason) == (f"{thinking}{CLOSING}4", "stop")


@pytest.mark.parametrize("budget", [0, 10])
def test_where_no_room_is_left_for_an_answer_the_thinking_goes_on(thinker: MakeFront, budget: int) -> None:
    front = thinker()
    full = budget + len(front.ids(CLOSING))
    text, reason, tokens = read(front.ask(text_input=PROMPT, max_reasoning_tokens=budget, max_tokens=full))
    assert "</think>" not in text
    assert (reason, tokens, len(front.backend.submitted)) == ("length", full, 1)
    text, reason, tokens = read(
        front.ask(text_input=PROMPT, max_reasoning_tokens=budget, max_tokens=full + 1)
    )
    assert text.endswith(f"{CLOSING}4"), "one token more is an answer"
    assert (reason, tokens) == ("length", full + 1)


def test_the_budget_may_end_within_a_character(make_front: MakeFront) -> None:
    def script(request: EngineRequest) -> list[int]:
        closed = request.input_ids[-len(closing) :] == closing
        return front.ids("né") if closed else front.ids("日本語" * 50)

    front = make_front(script)
    closing = tuple(front.ids(CLOSING))
    thought = front.ids("日本語" * 50)
    broken = 0
    for budget in range(1, 12):
        text, _, _ = read(front.ask(text_input=PROMPT, max_reasoning_tokens=budget, stream=True))
        whole = [*thought[:budget], *closing, *front.ids("né")]
        assert text == front.tokenizer.decode(whole)
        broken += "\ufffd" in text
    assert broken, "no budget ended within a character"


def test_log_probs_cover_every_token_once(thinker: MakeFront) -> None:
    front = thinker(step_seconds=0.0005)
    answers = list(
        front.ask(text_input=PROMPT, max_reasoning_tokens=6, stream=True, return_log_probs=True).answers()
    )
    logprobs = [float(value) for answer in answers for value in answer["output_log_probs"].reshape(-1)]
    closing = len(front.ids(CLOSING))
    # The closing marker was certain.
    assert logprobs == [-0.5] * 6 + [0.0] * closing + [-0.5] * (len(front.ids("4")) + 1)
    assert answers[-1]["num_output_tokens"].tolist() == [[len(logprobs)]]
    assert answers[-1]["cum_log_probs"].tolist() == [[sum(logprobs)]]


def test_times_are_of_one_answer(thinker: MakeFront) -> None:
    front = thinker(step_seconds=0.001)
    asked = {"text_input": PROMPT, "max_reasoning_tokens": 6, "stream": True, "return_perf_metrics": True}
    answers = list(front.ask(**asked).answers())
    names = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
    times = [int(answers[-1][name][0, 0]) for name in names]
    assert times == sorted(times)
    assert times[2] < int(answers[-2]["last_token_time_ns"][0, 0]), "the first token is the thinking's"


def test_stop_words_are_seen_across_the_seam(thinker: MakeFront) -> None:
    front = thinker(answer="4 and more")

    def ask(*words: str) -> str:
        asked = {"text_input": PROMPT, "max_reasoning_tokens": 4, "stop_words": list(words)}
        text, reason, _ = read(front.ask(**asked))
        assert reason == "stop"
        return text

    thought = front.tokenizer.decode((front.ids("so, ") * 4)[:4])
    assert ask(" and") == f"{thought}{CLOSING}4"
    assert ask("\n4") == f"{thought}</think>\n"
    assert ask(f"{thought[-1]}<") == thought[:-1]
    assert ask("\n\n") == f"{thought}</think>", "as if the model had written it"
    wait_until(lambda: front.backend.stats().active == 0)


def test_a_stop_word_in_the_marker_ends_a_request_without_thinking(thinker: MakeFront) -> None:
    front = thinker()
    asked = {"text_input": PROMPT, "max_reasoning_tokens": 0, "stop_words": ["think"]}
    assert read(front.ask(**asked))[:2] == ("</", "stop")
    assert front.backend.submitted == []
    assert all(delay >= 0 for delay in front.metrics["enginewright_time_to_first_token_seconds"])


def test_min_tokens_counts_the_whole_answer(thinker: MakeFront) -> None:
    front = thinker()
    for wanted, left in ((3, 0), (50, 50 - 5 - len(front.ids(CLOSING)))):
        read(front.ask(text_input=PROMPT, max_reasoning_tokens=5, min_tokens=wanted, max_tokens=60))
        first, second = front.backend.submitted[-2:]
        assert (first.sampling.min_tokens, second.sampling.min_tokens) == (wanted, left)


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


def parted(text: str, cuts: list[int]) -> list[str]:
    ends = sorted({*(cut % (len(text) + 1) for cut in cuts), len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "</thi", " ", "\n", "x", "né"])).map("".join),
    st.lists(st.integers(0, 200)),
    st.integers(0, 6),
    st.booleans(),
)
def test_any_tokens_spend_what_stands_inside_the_first_block(
    text: str, cuts: list[int], budget: int, opened: bool
) -> None:
    """Against a count over the whole text so far, as a caller would read it."""
    request = EngineRequest("", (1,), replace(NEUTRAL, max_tokens=1000))
    markers = replace(MARKERS, opened_by_template=opened)
    meter = ReasoningMeter(ReasoningBudget(markers, budget, opened, (7, 8)), request)
    tokens = parted(text, cuts)
    spent = over = 0
    for count in range(len(tokens) + 1):
        begun = "".join(tokens[:count])
        thought = begun
        if not opened:
            _, found, thought = begun.lstrip().partition("<think>")
            inside = bool(found) and begun.lstrip().startswith("<think>")
            over = over or not (inside or "<think>".startswith(begun.lstrip()))
        else:
            inside = True
        over = over or (inside and "</think>" in thought)
        before = "".join(tokens[: count - 1]).lstrip().startswith("<think>")
        spent += count > 0 and (opened or before)
        if over:
            assert meter.over and not meter.spent
            return
        if inside and spent >= budget:
            assert meter.spent and not meter.over
            assert meter.continuation().input_ids == (1, *range(count), 7, 8)
            return
        assert not meter.spent and not meter.over
        if count < len(tokens):
            meter.feed(count, tokens[count])
