"""Responses of the C++ model as token events: why a request ended is worked out, never guessed."""

from __future__ import annotations

import pytest
from enginewright_front.backend import TokenEvent
from enginewright_front.trtllm_answers import Answer, AnswerReader

END, OTHER_END, STOP = 2, 0, 9


def events(*answers: Answer, max_tokens: int = 5, cancelled: bool = False) -> list[TokenEvent]:
    reader = AnswerReader((END, OTHER_END), (STOP,), max_tokens)
    taken = [event for answer in answers if (event := reader.take(answer)) is not None]
    return [*taken, reader.finish(cancelled=cancelled)]


def test_an_end_token_is_added_that_the_model_keeps_to_itself() -> None:
    assert events(Answer((7,)), Answer(())) == [TokenEvent((7,)), TokenEvent((END,), None, "stop")]


def test_an_answer_may_end_before_its_first_token() -> None:
    assert events(Answer(())) == [TokenEvent((END,), None, "stop")]


@pytest.mark.parametrize("token", [OTHER_END, STOP])
def test_a_stop_token_is_no_text_but_the_end(token: int) -> None:
    made = events(Answer((7,), (-1.0,)), Answer((token,), (-2.0,)), Answer(()))
    assert made == [TokenEvent((7,), (-1.0,)), TokenEvent((token,), (-2.0,), "stop")]
    assert events(Answer((7, token))) == [TokenEvent((7,)), TokenEvent((token,), None, "stop")]


def test_an_answer_of_max_tokens_ended_by_length() -> None:
    made = events(*[Answer((7,))] * 5)
    assert made[-1] == TokenEvent((), None, "length")
    assert events(*[Answer((7,))] * 4, Answer((STOP,)))[-1].finish_reason == "stop"


def test_a_cancelled_answer_says_so_unless_it_had_ended() -> None:
    assert events(Answer((7,)), Answer(()), cancelled=True)[-1] == TokenEvent((), None, "cancelled")
    assert events(Answer((STOP,)), cancelled=True)[-1].finish_reason == "stop"


@pytest.mark.parametrize("answers", [(), (Answer((7,)), Answer(None))])
def test_an_end_that_no_response_announced_is_an_error(answers: tuple[Answer, ...]) -> None:
    last = events(*answers)[-1]
    assert last.finish_reason == "error"
    assert "broke off" in (last.error or "")


def test_an_error_is_passed_on() -> None:
    assert events(Answer(None, error="out of blocks"))[0] == TokenEvent((), None, "error", "out of blocks")


def test_without_an_end_token_an_early_end_is_an_error() -> None:
    reader = AnswerReader((), (), 5)
    reader.take(Answer((7,)))
    assert reader.finish(cancelled=False).finish_reason == "error"
