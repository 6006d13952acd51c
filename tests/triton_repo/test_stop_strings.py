"""A stop word is never shown, not even its beginning, and nothing else is kept from the reader."""

from __future__ import annotations

from enginewright_front.stop_strings import StopStrings
from hypothesis import given, settings
from hypothesis import strategies as st

letters = st.text(alphabet="abc", max_size=30)
words = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=1, max_size=4)


def shown(text: str, stops: list[str], cuts: set[int]) -> tuple[str, bool]:
    """What a reader sees of `text` that comes in pieces."""
    matcher = StopStrings(stops)
    seen, piece = "", ""
    for position, letter in enumerate(text):
        piece += letter
        if position in cuts:
            out, stopped = matcher.feed(piece)
            seen, piece = seen + out, ""
            if stopped:
                return seen, True
    out, stopped = matcher.feed(piece)
    return (seen + out, True) if stopped else (seen + out + matcher.finish(), False)


@given(text=letters, stops=words, cuts=st.sets(st.integers(0, 30)))
@settings(max_examples=500)
def test_the_result_does_not_depend_on_how_the_text_was_cut(
    text: str, stops: list[str], cuts: set[int]
) -> None:
    assert shown(text, stops, cuts) == shown(text, stops, set(range(30)))


@given(text=letters, stops=words)
@settings(max_examples=500)
def test_text_before_the_first_stop_word_is_shown_and_no_more(text: str, stops: list[str]) -> None:
    seen, stopped = shown(text, stops, set(range(30)))
    assert stopped == any(word in text for word in stops)
    assert text.startswith(seen)
    assert not any(word in seen for word in stops)
    assert stopped or seen == text


@given(text=letters, stops=words)
@settings(max_examples=300)
def test_only_what_may_become_a_stop_word_is_held_back(text: str, stops: list[str]) -> None:
    out, stopped = StopStrings(stops).feed(text)
    held = text[len(out) :]
    assert stopped or held == "" or any(word.startswith(held) for word in stops)


def test_the_beginning_of_a_stop_word_comes_out_when_it_turns_out_otherwise() -> None:
    matcher = StopStrings(["</answer>"])
    assert matcher.feed("42</ans") == ("42", False)
    assert matcher.feed("wers") == ("</answers", False)
    assert matcher.feed("</answer") == ("", False)
    assert matcher.finish() == "</answer"
