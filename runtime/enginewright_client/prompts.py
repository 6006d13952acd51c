r"""The prompts that QwQ's and Qwen's model cards ask for, and how to read the answers to them.

from enginewright_client import TritonClient, prompts

with TritonClient("127.0.0.1:8001") as client:
    answer = client.generate(prompts.math("What is 17 * 23?"))
    print(prompts.extract_boxed(answer.text))
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from enginewright_client._exceptions import InvalidRequest
from enginewright_client._models import Message

__all__ = ["extract_boxed", "extract_choice", "math", "multiple_choice"]

_MATH = r"Please reason step by step, and put your final answer within \boxed{}."
_CHOICE = 'Please show your choice in the `answer` field with only the choice letter, e.g., `"answer": "C"`.'


def math(question: str) -> list[Message]:
    r"""A chat that asks for an answer in a box.

    >>> print(math("What is 17 * 23?")[0]["content"])
    What is 17 * 23?
    Please reason step by step, and put your final answer within \boxed{}.
    """
    return [{"role": "user", "content": f"{question}\n{_MATH}"}]


def multiple_choice(question: str, options: Sequence[str]) -> list[Message]:
    """A chat that asks for the letter of one of 2 to 26 `options`. Raises InvalidRequest for other numbers.

    >>> print(multiple_choice("Which is a river?", ["Paris", "Rhine"])[0]["content"])
    Which is a river?
    <BLANKLINE>
    A) Paris
    B) Rhine
    <BLANKLINE>
    Please show your choice in the `answer` field with only the choice letter, e.g., `"answer": "C"`.
    """
    if isinstance(options, str):
        raise _refused("is one text", "give a list of texts")
    lines = (f"{letter}) {option}" for letter, option in zip(_letters(len(options)), options, strict=True))
    return [{"role": "user", "content": "\n".join([question, "", *lines, "", _CHOICE])}]


_BOX = re.compile(
    r"""\\(?:boxed|fbox)(?![A-Za-z])\s*(?:
          (?P<open>\{)
        | (?P<bare>(?:[A-Za-z](?![A-Za-z])|[^A-Za-z\s${}])(?:(?!\\[)\]])[^\s$])*)  # not a word of prose
        )
      | \\.       # an escaped brace is no brace
      | [{}]""",
    re.VERBOSE | re.DOTALL,
)


def extract_boxed(text: str) -> str | None:
    r"""The content of the last box in `text`, or None.

    Braces nest; an unfinished or empty box is none. Without braces (`\boxed 5`) the next word is the content.

    >>> extract_boxed(r"So $x = \boxed{\frac{1}{2}}$, as expected.")
    '\\frac{1}{2}'
    >>> extract_boxed("I do not know.") is None
    True
    """
    found = (-1, "")
    opened: list[int | None] = []  # where the content of a box begins; None for a plain brace
    for match in _BOX.finditer(text):
        start = None
        if match["bare"]:
            start, content = match.start(), match["bare"].rstrip(".,;:")
        elif match["open"]:
            opened.append(match.end())
        elif match[0] == "{":
            opened.append(None)
        elif match[0] == "}" and opened:
            start = opened.pop()
            content = text[start : match.start()].strip()
        if start is not None and content:
            # Of boxes in a box the inner one counts: it begins last.
            found = max(found, (start, content))
    return found[1] or None


# The patterns read a text whose runs of whitespace are one character each, and repeat within bounds: a long
# run of spaces or asterisks takes linear time.
_FIELD = r"""
    \\?["'`](?i:answer)\\?["'`]\s?:\s?(?:       # "answer": "C", with quotes of any kind, escaped, or none
        \\?["'`]\s?\(?(?P<quoted>[A-Za-z])(?=\s?\\?["'`]|[).:])
      | (?P<plain>[A-Za-z])(?=\s?(?:[,}\n]|\Z))
    )"""
_BOXED = r"""
    \\boxed\s?\{\s?(?:\\(?:text|mathrm|mathbf|textbf)\s?\{\s?)?\(?(?P<boxed>[A-Z])(?![\w^+])"""
# "Answer: C", "the answer is **C**", "the correct option is (C)". The letter counts where nothing else can be
# meant: it is not the article, the pronoun, "C++", "A-level", or one of two as in "B or C".
_SENTENCE = r"""
    \b(?i:answer|choice|option)[*_]{0,3}\s?(?:is\b\s?:?|:)[\s*_`"$(]{0,9}(?:(?i:option|choice)[\s*_(]{1,9})?
    (?P<said>
        [A-Za-z](?=[ )\]}*_`"$.,;:!?]{0,9}(?:\n|\Z))
      | [A-Z](?=[)\]}*_`"$.,;:!?]|\s(?:because|since|as)\b)
      | [B-HJ-Z](?![\w'’+\#-])
    )(?!\)?\*{0,3}\s?(?:/|or\b|and\b)\s?\(?\*{0,3}[A-Z]\b)"""
_EXPLICIT = re.compile(f"{_FIELD}|{_BOXED}|{_SENTENCE}", re.VERBOSE)

_MARKED = re.compile(
    r"""
      \*\*\s?\(?(?P<bold>[A-Z])\)?\s?(?:[.):][^*\n]*)?\*\*  # **C**, **(C)**, **C) Paris**
    | (?<!\w)\((?P<bracketed>[A-Z])\)(?!\w)                 # (C)
    | ^[ ]?(?P<alone>[A-Z])[).:]?[ ]?$                      # a line of its own
    | \A\s?(?P<first>[A-Z])[).:][ ][^\n]*\Z                 # C) Paris, and nothing else
    """,
    re.VERBOSE | re.MULTILINE,
)


def extract_choice(text: str, options: int = 4) -> str | None:
    """The letter that `text` chooses among the first `options` letters, or None.

    What calls itself the answer (the JSON field, "the answer is C", a box) stands above a letter that is only
    marked ("**C**", "(C)", a line of its own); among equals the last one wins. The word "A" is no choice.

    >>> extract_choice('The Rhine is a river. {"answer": "B"} Paris (A) is a city.')
    'B'
    >>> extract_choice("A good question. I would say **C**.")
    'C'
    >>> extract_choice("A good question.") is None
    True
    """
    letters = _letters(options)
    text = re.sub(r"\s+", lambda run: "\n" if "\n" in run[0] else " ", text)
    for pattern in (_EXPLICIT, _MARKED):
        found = [match[match.lastgroup or 0].upper() for match in pattern.finditer(text)]
        chosen = [letter for letter in found if letter in letters]
        if chosen:
            return chosen[-1]
    return None


def _letters(options: int) -> str:
    if not 2 <= options <= len(ascii_uppercase):
        raise _refused(f"are {options}", f"give 2 to {len(ascii_uppercase)}")
    return ascii_uppercase[:options]


def _refused(problem: str, hint: str) -> InvalidRequest:
    return InvalidRequest(f"options {problem}", code="invalid-request", hint=hint, field="options")
