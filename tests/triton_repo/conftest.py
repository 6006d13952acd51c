"""A packaged-like checkpoint folder and the pieces of a front around a scripted engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from enginewright_front.backend import EngineLimits, EngineRequest
from enginewright_front.front_config import FrontConfig, FrontLimits, Reasoning
from enginewright_front.scripted_backend import ScriptedBackend
from triton_repo.front_under_test import FrontUnderTest
from triton_repo.spelling import byte_level
from triton_repo.thinking import CLOSING, MARKERS, MakeFront


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizer, chat template and generation config of a checkpoint; no weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    byte_level(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    return folder


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
