"""What Triton 2.51 loses between two models, and what an engine may do wrong: every caller hears of it in
time, every slot comes back, the server goes on, and ends when it is told to."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from triton_repo.real_triton import WAIT_SECONDS, WireCaller, one, running_triton, text_of
from triton_repo.trtllm_repository import (
    NATIVE,
    stand_in_target,
    write_exact_engine,
    write_stand_in_repository,
)
from triton_repo.trtllm_stand_in.trouble import Trouble
from tritonclient.utils import InferenceServerException

SILENCE, STALL = 1.0, 1.5
# So many tokens take many seconds.
LONG = 8000
FOR_LONG = {"text_input": "a", "max_tokens": LONG - 1, "min_tokens": LONG - 1}


@pytest.fixture(scope="module")
def repository(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint, engines = tiny(arch="qwen2", max_position=2 * LONG), tmp_path_factory.mktemp("engines")
    for name, length in (("native", NATIVE), ("long", LONG)):
        write_exact_engine(checkpoint, engines / name, length)
    made = tmp_path_factory.mktemp("trtllm")
    write_stand_in_repository(
        made,
        checkpoint,
        {"native": engines / "native", "long": engines / "long"},
        target=stand_in_target(LONG),
        silence_seconds=SILENCE,
        stall_seconds=STALL,
    )
    return made


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(gRPC address, metrics address)."""
    with running_triton(repository) as addresses:
        yield addresses
        started = time.monotonic()
    # Threads that wait for lost calls are left over from the tests below.
    assert time.monotonic() - started < 15


@pytest.fixture
def caller(server: tuple[str, str]) -> Iterator[WireCaller]:
    made = WireCaller(server[0])
    yield made
    made.close()


def metric(server: tuple[str, str], name: str) -> float:
    text = urllib.request.urlopen(f"http://{server[1]}/metrics", timeout=WAIT_SECONDS).read().decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def wait_until(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> float:
    """Seconds until it was so."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "it never happened"
    return time.monotonic() - started


def trouble(kind: Trouble, **more: Any) -> dict[str, Any]:
    values = {"text_input": "a", "max_tokens": 60, "stream": True, "temperature": 1.0, "min_tokens": 60}
    return {**values, "seed": int(kind), **more}


def assert_alive(caller: WireCaller) -> None:
    assert one(caller.ask("llm", {"text_input": "alive", "max_tokens": 4})[-1], "finish_reason")


def test_an_error_before_the_first_token_reaches_the_caller(caller: WireCaller) -> None:
    with pytest.raises(InferenceServerException, match=r"the executor is out of blocks.*\[engine-failed\]"):
        caller.ask("llm", trouble(Trouble.FIRST_ERROR))
    assert_alive(caller)


@pytest.mark.parametrize("kind", [Trouble.LATE_ERROR, Trouble.SILENT])
def test_a_request_that_falls_silent_is_given_up_after_its_first_tokens(
    caller: WireCaller, kind: Trouble
) -> None:
    caller.send("llm", trouble(kind))
    assert text_of([caller.next()])
    started = time.monotonic()
    with pytest.raises(InferenceServerException, match=r"\[engine-failed\]"):
        while True:
            caller.next()
    assert time.monotonic() - started < SILENCE + 2
    assert_alive(caller)


def test_an_answer_that_breaks_off_is_an_error(caller: WireCaller) -> None:
    with pytest.raises(InferenceServerException, match=r"broke off after 3 tokens.*\[engine-failed\]"):
        caller.ask("llm", trouble(Trouble.BREAKS_OFF))


def test_a_request_that_hangs_is_given_up_and_the_next_one_is_served(caller: WireCaller) -> None:
    with pytest.raises(InferenceServerException, match=r"gave no answer for 1.5 s.*\[engine-stalled\]"):
        caller.ask("llm", trouble(Trouble.HANGS))
    assert_alive(caller)


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_that_gives_up_frees_the_slot_in_the_engine(server: tuple[str, str], stream: bool) -> None:
    wait_until(lambda: metric(server, "stand_in_running") == 0)
    made = WireCaller(server[0])
    made.send("llm", {**FOR_LONG, "stream": stream})
    wait_until(lambda: metric(server, "stand_in_running") == 1)
    made.close(cancel=True)
    assert wait_until(lambda: metric(server, "stand_in_running") == 0) < 1.0


def test_a_stop_word_frees_the_slot_in_the_engine(server: tuple[str, str], caller: WireCaller) -> None:
    beginning = text_of(caller.ask("llm", {"text_input": "a", "max_tokens": 20, "min_tokens": 20}))
    [result] = caller.ask("llm", {**FOR_LONG, "stop_words": [beginning[3:6]]})
    assert one(result, "finish_reason") == b"stop"
    assert wait_until(lambda: metric(server, "stand_in_running") == 0) < 1.0


def test_two_requests_of_one_id_do_not_end_each_other(server: tuple[str, str], caller: WireCaller) -> None:
    values = {"text_input": "a", "max_tokens": 1000, "min_tokens": 1000, "stream": True}
    other = WireCaller(server[0])
    other.send("llm", {**FOR_LONG, "stream": True}, request_id="same")
    other.next()
    caller.send("llm", values, request_id="same")
    other.close(cancel=True)
    results = [caller.next()]
    while not results[-1].get_response().parameters["triton_final_response"].bool_param:
        results.append(caller.next())
    assert one(results[-1], "num_output_tokens") == 1000


def test_a_model_that_hangs_keeps_neither_the_other_nor_cancellations_from_working(
    repository: Path, tmp_path: Path
) -> None:
    """The server has a bounded number of threads for calls without an answer: not all may be taken."""
    with running_triton(repository) as server:
        hanging = [WireCaller(server[0]) for _ in range(36)]
        for each in hanging:
            each.send("llm", trouble(Trouble.HANGS))
        wait_until(lambda: metric(server, "stand_in_requests_total") >= 12)
        other = WireCaller(server[0])
        other.send("llm", {**FOR_LONG, "stream": True})
        assert other.next()
        other.close(cancel=True)
        assert wait_until(lambda: metric(server, "stand_in_running") == 0) < 1.0
        for each in hanging:
            with pytest.raises(InferenceServerException, match=r"\[engine-stalled\]"):
                each.next()
        # Nothing of the native model is left to try it with.
        with pytest.raises(InferenceServerException, match=r"restart the server.*\[engine-stalled\]"):
            hanging[0].ask("llm", {"text_input": "a", "max_tokens": 4})
        [answer] = hanging[1].ask("llm", {"text_input": "a", "max_tokens": NATIVE, "min_tokens": NATIVE})
        assert one(answer, "num_output_tokens") == NATIVE
        for each in hanging:
            each.close()
