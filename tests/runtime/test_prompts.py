"""The model card's prompts, word for word, and answers read as a person would read them."""

from __future__ import annotations

import doctest

import pytest
from enginewright_client import InvalidRequest, prompts
from hypothesis import given
from hypothesis import strategies as st


def test_the_prompts_hold_the_card_s_instructions() -> None:
    (asked,) = prompts.math("What is $1 + 1$?")
    assert asked["role"] == "user"
    assert asked["content"] == (
        "What is $1 + 1$?\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    (asked,) = prompts.multiple_choice("Which?", ["one", "two", "three"])
    assert "\nA) one\nB) two\nC) three\n" in asked["content"]
    assert asked["content"].endswith(
        'Please show your choice in the `answer` field with only the choice letter, e.g., `"answer": "C"`.'
    )


@pytest.mark.parametrize("options", [[], ["one"], ["x"] * 27, "ABCD"])
def test_a_choice_among_none_or_too_many_is_refused(options: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prompts.multiple_choice("Which?", options)
    assert caught.value.field == "options"


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"So the answer is $\boxed{42}$.", "42"),
        (r"First \boxed{1}. Wait, that is wrong: \boxed{2} it is.", "2"),
        (r"\boxed{\frac{\sqrt{3}}{2}} and {nothing} else", r"\frac{\sqrt{3}}{2}"),
        (r"\boxed{\left\{ 1, 2 \right\}}", r"\left\{ 1, 2 \right\}"),
        (r"\boxed{\{x \mid x > 0\}} for all \{x\}", r"\{x \mid x > 0\}"),
        (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
        (r"\boxed{1 \\}", r"1 \\"),
        (r"\boxed{7} so it is \boxed{7", "7"),
        (r"\boxed{12", None),
        (r"\boxed{\frac{1}{2}", None),
        (r"$\boxed 5$", "5"),
        (r"thus \boxed 3.14.", "3.14"),
        (r"\(\boxed -12\)", "-12"),
        (r"\boxed\frac{1}{2}$", r"\frac{1}{2}"),
        (r"\boxed5", "5"),
        (r"\boxed x", "x"),
        (r"\fbox{9}", "9"),
        (r"\boxed {  8 }", "8"),
        (r"\boxed{\text{blue}}", r"\text{blue}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{42} as asked, within \boxed{}.", "42"),
        (r"\boxed{}", None),
        (r"I put it in \boxed notation", None),
        (r"\boxedtext{4}", None),
        (r"} a stray brace } \boxed{4}", "4"),
        (r"{ a stray brace \boxed{4}", "4"),
        (r"\boxed", None),
        ("\\boxed{1,\n000}", "1,\n000"),
        ("", None),
    ],
)
def test_the_last_finished_box_is_the_answer(text: str, content: str | None) -> None:
    assert prompts.extract_boxed(text) == content


_PLAIN = st.text(st.sampled_from("01x+=,. \n"), max_size=6)
_ESCAPED = st.sampled_from([r"\{", r"\}", "\\\\", r"\frac", r"\left\{"])
_BALANCED = st.recursive(
    st.one_of(_PLAIN, _ESCAPED),
    lambda inner: st.lists(st.one_of(inner, _PLAIN, inner.map(lambda text: f"{{{text}}}")), max_size=4).map(
        "".join
    ),
    max_leaves=20,
)


@given(_BALANCED, st.text(st.sampled_from("{}x$ .\n"), max_size=10), _BALANCED)
def test_a_box_of_balanced_braces_is_read_whole(content: str, before: str, after: str) -> None:
    text = f"{before}\\boxed{{{content}}} {after}"
    assert prompts.extract_boxed(text) == (content.strip() or None)


@given(st.lists(st.sampled_from(["\\", "boxed", "fbox", "{", "}", "$", " ", "5", "x", "\n"])).map("".join))
def test_any_text_has_a_box_or_none(text: str) -> None:
    content = prompts.extract_boxed(text)
    assert content is None or (content in text and content == content.strip() != "")


def test_many_unfinished_boxes_take_no_time_to_speak_of() -> None:
    # Quadratic in the number of boxes this would take minutes.
    assert prompts.extract_boxed(r"\boxed{" * 100_000) is None


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ('{"answer": "C"}', "C"),
        ('```json\n{\n  "answer": "C"\n}\n```', "C"),
        ('{"reason": "Paris is a city", "answer": "b"} That is all. A city is no river.', "B"),
        ("{'answer': 'D'}", "D"),
        (r"{\"answer\": \"C\"}", "C"),
        ('"answer": C', "C"),
        ('{"Answer": "C"}', "C"),
        ('{"answer": "(C)"}', "C"),
        ('{"answer": "C) Rhine"}', "C"),
        ('{"answer": "C. Rhine"}', "C"),
        ('You want `"answer": "C"`, so: `"answer": "B"`', "B"),
        ('{"answer": "A good one"}', None),
        ('{"answer": "E"}', None),
        ('{"answer": "Berlin"}', None),
        ("Answer: C", "C"),
        ("answer: C", "C"),
        ("answer: c", "C"),
        ("**Answer:** C", "C"),
        ("**Answer: C**", "C"),
        ("**Answer:** (C) Rhine", "C"),
        ("The answer is C.", "C"),
        ("The answer is **C**.", "C"),
        ("The correct answer is: (C)", "C"),
        ("The correct option is C", "C"),
        ("The answer is option C, the Rhine.", "C"),
        ("The answer is C because a river flows.", "C"),
        ("The answer is A because a river flows.", "A"),
        ("The answer is A.", "A"),
        ("At first I thought the answer is A. But no: the answer is D.", "D"),
        ("Option (A) is wrong. The answer is B, as (D) is a city.", "B"),
        ("The final answer is $\\boxed{C}$.", "C"),
        ("$\\boxed{\\text{C}}$", "C"),
        ("\\boxed{\\textbf{(C)}}", "C"),
        ("\\boxed{C^2}", None),
        ("I choose **C**.", "C"),
        ("**(C)**", "C"),
        ("**C) Rhine**", "C"),
        ("It must be (C), the Rhine.", "C"),
        ("Not (A), so (B)", "B"),
        ("C", "C"),
        ("C.", "C"),
        ("C) Rhine", "C"),
        ("Let me see.\n\nC\n", "C"),
        ("A good question. A river is a stream.", None),
        ("A", "A"),
        ("The answer is A good question.", None),
        ("The answer is a matter of taste.", None),
        ("answer: a long story", None),
        ("The answer is A-level mathematics.", None),
        ("The answer is C++.", None),
        ("The answer is not A", None),
        ("The answer is B or C.", None),
        ("The answer is (B) or (C)", "C"),  # nothing is said to be the answer: the last that is marked
        ("The answer is Berlin.", None),
        ("f(A) = 3", None),
        ("**A good idea**", None),
        ("I cannot tell.", None),
        ("", None),
    ],
)
def test_the_choice_is_what_a_person_would_read(text: str, letter: str | None) -> None:
    assert prompts.extract_choice(text) == letter


def test_letters_beyond_the_options_are_no_choice() -> None:
    assert prompts.extract_choice("The answer is E.", options=5) == "E"
    assert prompts.extract_choice("The answer is E.", options=4) is None
    assert prompts.extract_choice("(B), surely not (I)", options=2) == "B"
    assert prompts.extract_choice("The answer is I think unclear", options=26) is None
    with pytest.raises(InvalidRequest):
        prompts.extract_choice("C", options=1)


@given(st.text(st.sampled_from("ABab is.,:;\n answer")))
def test_any_text_has_a_choice_or_none(text: str) -> None:
    assert prompts.extract_choice(text) in ("A", "B", "C", "D", None)


@given(st.sampled_from("ABCD"), st.text(st.sampled_from('Aa x{}().,"\n')))
def test_the_asked_form_is_read_whatever_stands_before_it(letter: str, before: str) -> None:
    assert prompts.extract_choice(f'{before} {{"answer": "{letter}"}}') == letter


def test_the_examples_run() -> None:
    results = doctest.testmod(prompts)
    assert results.attempted and not results.failed


def test_long_runs_of_spaces_take_no_time_to_speak_of() -> None:
    # Quadratic in the spaces this took minutes.
    assert prompts.extract_choice("the answer is" + " " * 200_000 + "C") == "C"
