"""A reasoning model's text is parted the same however it arrives; nothing is lost or shown twice."""

from __future__ import annotations

import doctest

import pytest
from enginewright_client import _reasoning
from enginewright_client._reasoning import Piece, ReasoningSplitter, strip_reasoning
from hypothesis import given
from hypothesis import strategies as st

OPEN, CLOSE = "<think>", "</think>"

# Texts that are dense in markers, parts of markers and whitespace.
_TEXTS = st.lists(
    st.one_of(
        st.sampled_from([OPEN, CLOSE, "<", "</", "<thi", "</think", ">", " ", "\n\n", "\t", "4", "né"]),
        st.text(max_size=4),
    ),
    max_size=12,
).map("".join)


def part(*deltas: str, opened: bool) -> tuple[str, str]:
    """(reasoning, content) of an answer that arrives in `deltas`."""
    splitter = ReasoningSplitter(OPEN, CLOSE, opened=opened)
    pieces = [piece for delta in deltas for piece in splitter.feed(delta)] + splitter.finish()
    kinds = [piece.kind for piece in pieces]
    assert kinds == sorted(kinds, reverse=True), "the answer comes after the thinking"
    assert all(piece.text for piece in pieces)
    joined = {kind: "".join(p.text for p in pieces if p.kind == kind) for kind in ("reasoning", "content")}
    return joined["reasoning"], joined["content"]


@pytest.mark.parametrize(
    ("opened", "text", "reasoning", "content"),
    [
        (True, "2 and 2\n</think>\n\n4", "2 and 2\n", "4"),
        (False, "<think>\n2 and 2\n</think>\n\n4", "2 and 2\n", "4"),
        (False, "\n <think>2 and 2</think>4", "2 and 2", "4"),
        (True, "<think>\n2 and 2</think>4", "2 and 2", "4"),  # the template wrote it, and so did the model
        (True, "2 and 2, so", "2 and 2, so", ""),  # the budget ended inside
        (False, "<think>2 and 2, so", "2 and 2, so", ""),
        (True, "2 and 2 </thi", "2 and 2 </thi", ""),
        (False, "4", "", "4"),
        (False, " \n4 ", "", " \n4 "),
        (False, "4 </think> 5", "", "4 </think> 5"),  # closes nothing
        (False, "</think>\n\n4", "", "4"),
        (True, "</think>\n\n4", "", "4"),
        (True, "\n\n</think>\n\n4", "", "4"),
        (False, "<think>\n\n</think>\n\n4", "", "4"),
        (True, "a</think>`<think>b</think>`", "a", "`<think>b</think>`"),
        (False, "<think>a <think> b</think> c</think>", "a <think> b", "c</think>"),
        (False, "The tag <think> and </think>", "", "The tag <think> and </think>"),
        (True, "", "", ""),
        (False, "", "", ""),
        (True, "  \n", "", ""),
        (False, "<thi", "", "<thi"),
        (True, "<thi", "<thi", ""),
        (True, "a</think>\n", "a", ""),
        (True, "a</think>\n4\n", "a", "4\n"),
    ],
)
def test_thinking_and_answer(opened: bool, text: str, reasoning: str, content: str) -> None:
    assert part(text, opened=opened) == (reasoning, content)
    assert part(*text, opened=opened) == (reasoning, content)


@given(_TEXTS, st.booleans(), st.data())
def test_any_cut_of_any_text_gives_the_same_parts(text: str, opened: bool, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    deltas = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert part(*deltas, opened=opened) == part(text, opened=opened)


@given(_TEXTS, st.booleans())
def test_only_markers_and_the_whitespace_behind_them_are_dropped(text: str, opened: bool) -> None:
    reasoning, content = part(text, opened=opened)
    before, found, after = text.rpartition(content) if content else (text, "", "")
    assert (found, after) == (content, "")
    thought, closed, space = before.partition(CLOSE) if reasoning or opened else (before, "", before)
    if closed:
        assert not space.strip()
    assert thought.endswith(reasoning)
    assert thought.removesuffix(reasoning).strip() in ("", OPEN, CLOSE, OPEN + CLOSE)  # the last: no thought


@given(_TEXTS, st.booleans())
def test_only_what_may_become_a_marker_is_held_back(text: str, opened: bool) -> None:
    splitter = ReasoningSplitter(OPEN, CLOSE, opened=opened)
    shown = "".join(piece.text for piece in splitter.feed(text))
    held = "".join(piece.text for piece in splitter.finish()).strip()
    assert OPEN.startswith(held) or CLOSE.startswith(held)
    assert text.rstrip().endswith(held)
    assert (shown + held).strip() == "".join(part(text, opened=opened)).strip()


def test_the_answer_is_shown_as_it_comes() -> None:
    splitter = ReasoningSplitter(OPEN, CLOSE, opened=True)
    assert splitter.feed("so</think>\n") == [Piece("reasoning", "so")]
    assert splitter.feed("\n4 <") == [Piece("content", "4 <")]
    assert splitter.finish() == []


@pytest.mark.parametrize("markers", [("", "</think>"), ("<t>", " "), ("|", "|"), ("<t>", " <t>x")])
def test_markers_that_cannot_be_told_apart_are_refused(markers: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="cannot mark"):
        ReasoningSplitter(*markers, opened=True)


@pytest.mark.parametrize(
    ("text", "history"),
    [
        ("2 and 2\n</think>\n\n4", "4"),
        ("<think>\n2 and 2\n</think>\n\n4", "4"),
        ("<think>2 and 2, so", ""),
        ("4", "4"),
        ("Tags: <think>, </think>", "Tags: <think>, </think>"),
        ("so</think>Tags: <think>, </think>", "Tags: <think>, </think>"),
        ("", ""),
    ],
)
def test_history_is_sent_without_thinking(text: str, history: str) -> None:
    assert strip_reasoning(text, OPEN, CLOSE) == history


@given(_TEXTS)
def test_the_answer_of_a_whole_block_is_what_history_keeps(text: str) -> None:
    assert strip_reasoning(f"{OPEN}so{CLOSE}{text}", OPEN, CLOSE) == text.lstrip()


def test_the_examples_run() -> None:
    results = doctest.testmod(_reasoning)
    assert results.attempted and not results.failed
