"""The examples in the docstrings of the public names run, and none is without one."""

from __future__ import annotations

import doctest
import inspect
import typing
from collections.abc import Iterator

import enginewright_client
import pytest
from enginewright_client import MockRequest, MockTransport

OPTIONS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE
CLASSES = sorted(
    name for name in enginewright_client.__all__ if inspect.isclass(vars(enginewright_client)[name])
)


def answer(request: MockRequest) -> Iterator[str]:
    if isinstance(request.prompt, str):
        yield from ("a ", "time")
    else:
        yield from ("Two and two. ", "</think>\n\n4")


@pytest.fixture
def fake_server() -> MockTransport:
    parameters = {
        "reasoning.open": "<think>",
        "reasoning.close": "</think>",
        "reasoning.opened_by_template": "true",
    }
    return MockTransport(answer, parameters=parameters)


@pytest.mark.parametrize("name", CLASSES)
def test_the_example_of_a_public_class_runs(name: str, fake_server: MockTransport) -> None:
    public = getattr(enginewright_client, name)
    tests = doctest.DocTestFinder(recurse=False).find(
        public, name, globs={**vars(enginewright_client), "fake_server": fake_server}
    )
    assert tests and tests[0].examples, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    report: list[str] = []
    assert runner.run(tests[0], out=report.append).failed == 0, "".join(report)


def test_every_public_name_is_a_class_or_a_documented_alias() -> None:
    others = set(enginewright_client.__all__) - set(CLASSES)
    assert others == {"DEFAULT_ADDRESS", "FinishReason", "Message", "Prompt"}
    assert typing.get_args(enginewright_client.FinishReason) == ("stop", "length", "cancelled")
