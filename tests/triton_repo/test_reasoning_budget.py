"""max_reasoning_tokens: thinking that is too long is closed, the answer follows, and nobody else notices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from enginewright_front.backend import EngineRequest
from enginewright_front.front_config import Reasoning
from enginewright_front.reasoning_budget import ReasoningBudget, ReasoningMeter
from hypothesis import given
from hypothesis import strategies as st
from triton_repo.test_trtllm_inputs import NEUTRAL
from triton_repo.thinking import CLOSING, MARKERS, PROMPT, MakeFront, read, wait_until


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
