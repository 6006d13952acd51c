"""The ONNX engine behind the front: what whoever starts the server decides about it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from enginewright_errors import UsageError
from enginewright_front.backend import EngineRequest, TokenEvent
from enginewright_front.front_config import FrontConfig
from enginewright_front.onnx_backend import OnnxBackend
from enginewright_onnx import EngineOptions, write_engine
from enginewright_onnx.runtime import Engine
from triton_repo.front_under_test import WAIT_SECONDS, FrontUnderTest
from triton_repo.test_trtllm_inputs import NEUTRAL
from triton_repo.thinking import MARKERS


@pytest.fixture(scope="module")
def engine(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine") / "engine"
    write_engine(tiny(arch="qwen2"), folder, EngineOptions(max_seq_len=64, max_batch_size=2, threads=1))
    return folder


def threads_of(engine: Path) -> int:
    """How many threads an engine starts; those of earlier tests may end meanwhile."""
    before = {task.name for task in Path("/proc/self/task").iterdir()}
    backend = OnnxBackend.open(engine, max_queue=4)
    try:
        return len({task.name for task in Path("/proc/self/task").iterdir()} - before)
    finally:
        backend.close()


def test_the_servers_threads_stand_above_the_builds(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINEWRIGHT_THREADS", raising=False)
    threads_of(engine)  # the first session of a process starts a thread of its own
    built_with_one = threads_of(engine)
    monkeypatch.setenv("ENGINEWRIGHT_THREADS", "4")
    assert threads_of(engine) == built_with_one + 3


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "100000"])
def test_threads_that_cannot_be_are_named(engine: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ENGINEWRIGHT_THREADS", text)
    with pytest.raises(UsageError, match=f"ENGINEWRIGHT_THREADS is '{text}'"):
        OnnxBackend.open(engine, max_queue=4)


def test_as_many_requests_as_run_and_wait_may_arrive_within_one_step(engine: Path) -> None:
    """The front counts them; an engine that is busy with a step has not given any of them a slot yet."""
    stepping, resume, ended = threading.Event(), threading.Event(), threading.Semaphore(0)

    def hold(event: TokenEvent) -> None:
        stepping.set()
        assert resume.wait(WAIT_SECONDS)
        end(event)

    def end(event: TokenEvent) -> None:
        if event.finish_reason is not None:
            ended.release()

    backend = OnnxBackend.open(engine, max_queue=1)
    request = EngineRequest("", (5, 6, 7), replace(NEUTRAL, max_tokens=2))
    try:
        backend.submit(request, hold)
        assert stepping.wait(WAIT_SECONDS)
        for _ in range(backend.limits.slots):
            backend.submit(request, end)
        resume.set()
        assert all(ended.acquire(timeout=WAIT_SECONDS) for _ in range(1 + backend.limits.slots))
    finally:
        resume.set()
        backend.close()


def test_an_answer_begins_behind_the_keys_and_values_of_its_thinking(engine: Path, checkpoint: Path) -> None:
    prompt, budget = "The capital of France is <think>", 20
    with Engine.open(engine, threads=1) as runtime:
        front = FrontUnderTest(checkpoint, OnnxBackend(runtime), FrontConfig("m", reasoning=MARKERS))
        asked = {"text_input": prompt, "max_reasoning_tokens": budget, "max_tokens": 40, "min_tokens": 40}
        assert "</think>" in front.ask(**asked).text()
        stats = runtime.stats()
        front.dispatcher.close()
    prompt_tokens = len(front.ids(prompt))
    closing = len(front.ids("</think>\n\n"))
    assert stats.prompt_tokens == 2 * prompt_tokens + budget + closing
    # The model had not read the last token that was thought, unless it went on for a step.
    assert stats.reused_tokens in (prompt_tokens + budget - 1, prompt_tokens + budget)
