"""The runtime on real fp32 engines of tiny checkpoints: exact against transformers, alike in any company."""

from __future__ import annotations

import ast
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engines.reference_model import ReferenceModel
from enginewright_errors import CheckpointError, DoesNotFit, StageFailed
from enginewright_onnx import EngineOptions, LongContext, runtime, write_engine
from enginewright_onnx.runtime import (
    Engine,
    Generation,
    GenerationRequest,
    ModelSession,
    RequestHandle,
    SamplingParams,
    TokenEvent,
    read_engine_config,
    score,
)
from enginewright_onnx.runtime.draft import Drafter
from numpy.typing import NDArray

LONG = LongContext(max_seq_len=192, factor=4.0, original_max_position_embeddings=48)
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 48,
    "rope_theta": 1_000_000.0,
}


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def checkpoint(request: pytest.FixtureRequest, tiny: Callable[..., Path]) -> Path:
    return tiny(arch=request.param, tied=request.param == "llama")


@pytest.fixture(scope="module")
def engine_dir(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("engine") / checkpoint.name
    options = EngineOptions(
        max_seq_len=96, max_batch_size=5, prefill_chunk=8, accuracy_level=0, lm_head="fp32", long_context=LONG
    )
    write_engine(checkpoint, out, options)
    return out


@pytest.fixture(scope="module")
def session(engine_dir: Path) -> ModelSession:
    return ModelSession.open(engine_dir, read_engine_config(engine_dir), threads=2)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> ReferenceModel:
    return ReferenceModel(checkpoint)


def ids_of(seed: int, length: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(3, 380, length).astype(np.int32)


def test_logits_are_those_of_transformers_in_any_chunking(
    session: ModelSession, reference: ReferenceModel
) -> None:
    ids = ids_of(1, 90)
    expected = reference.logits(ids)
    # 8 again after 90: buffers grew between two calls of the same shape.
    for chunk, row in ((8, 0), (90, 1), (8, 0), (1, 2), (7, 3)):
        actual = score(session, ids, chunk=chunk, row=row)
        assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_long_region_is_yarn_and_the_native_one_is_not(
    session: ModelSession, checkpoint: Path, reference: ReferenceModel
) -> None:
    ids = ids_of(2, 90)
    yarn = ReferenceModel(checkpoint, rope=YARN).logits(ids)
    assert np.abs(score(session, ids, long_context=True) - yarn).max() <= 1e-4 * np.abs(yarn).max()
    assert np.abs(score(session, ids) - yarn).max() > 1e-2 * np.abs(yarn).max()


@pytest.mark.parametrize("rope", [None, YARN], ids=["native", "long"])
def test_greedy_takes_what_transformers_would_take(
    engine_dir: Path, checkpoint: Path, rope: dict[str, object] | None
) -> None:
    with Engine.open(engine_dir, threads=2) as engine:
        prompt = ids_of(3, 30)
        sampling = SamplingParams(40, 0.0, min_tokens=40, logprobs=True)
        answer = engine.generate(prompt, sampling, long_context=rope is not None)
    logits = ReferenceModel(checkpoint, rope=rope).logits([*prompt, *answer.token_ids])[29:-1]
    assert answer.logprobs is not None
    expected = [
        row[token] - np.logaddexp.reduce(row) for row, token in zip(logits, answer.token_ids, strict=True)
    ]
    np.testing.assert_allclose(answer.logprobs, expected, atol=1e-3)
    logits[:, [0, 2]] = -np.inf  # the end ids, masked by min_tokens
    assert answer.token_ids == tuple(logits.argmax(axis=1).tolist())


class Fuzz:
    """Requests that share beginnings, stop, sample, use both regions, and are sometimes cancelled."""

    def __init__(self, seed: int, count: int) -> None:
        chance = random.Random(seed)
        self.requests = []
        for index in range(count):
            prompt = [
                *ids_of(99, chance.choice([0, 0, 20, 40])),
                *ids_of(seed * 1000 + index, chance.randint(1, 12)),
            ]
            sampling = SamplingParams(
                max_tokens=chance.randint(1, 30),
                temperature=chance.choice([0.0, 0.0, 0.8]),
                top_p=chance.choice([1.0, 0.9]),
                repetition_penalty=chance.choice([1.0, 1.3]),
                seed=index,
            )
            self.requests.append(GenerationRequest(str(index), prompt, sampling, chance.random() < 0.3))
        self.cancel_after = {index: chance.randint(0, 10) for index in range(count) if chance.random() < 0.25}


def run_together(engine: Engine, fuzz: Fuzz) -> list[tuple[int, ...]]:
    """All requests of `fuzz`, submitted while others run; the tokens of each."""
    tokens: list[list[int]] = [[] for _ in fuzz.requests]
    handles: dict[int, RequestHandle] = {}
    left = threading.Semaphore(0)

    def listener(index: int) -> Callable[[TokenEvent], None]:
        def on_event(event: TokenEvent) -> None:
            tokens[index].extend(event.token_ids)
            if index in handles and len(tokens[index]) >= fuzz.cancel_after.get(index, 1000):
                handles[index].cancel()
            if event.finish_reason is not None:
                assert event.finish_reason != "error", event.error
                left.release()

        return on_event

    for index, request in enumerate(fuzz.requests):
        handles[index] = engine.submit(request, listener(index))
        if index > 6:
            left.acquire()
    for _ in range(7):
        left.acquire()
    return [tuple(each) for each in tokens]


@pytest.mark.parametrize("reuse", [False, True])
def test_a_requests_tokens_do_not_depend_on_its_neighbours(engine_dir: Path, reuse: bool) -> None:
    fuzz = Fuzz(seed=7, count=50)
    with Engine.open(engine_dir, threads=2, prefix_reuse=False) as engine:
        alone = [
            engine.generate(request.input_ids, request.sampling, long_context=request.long_context).token_ids
            for request in fuzz.requests
        ]
    with Engine.open(engine_dir, threads=2, prefix_reuse=reuse) as engine:
        together = run_together(engine, fuzz)
        stats = engine.stats()
    for index, (mine, expected) in enumerate(zip(together, alone, strict=True)):
        assert mine == (expected[: len(mine)] if index in fuzz.cancel_after else expected), index
    assert (stats.active, stats.waiting, stats.kv_tokens_used) == (0, 0, 0)
    assert (stats.reused_tokens > 0) == reuse


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_save_steps_and_change_no_token(
    engine_dir: Path, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three tokens are left to say, so the text repeats itself.
    vocab_size = read_engine_config(engine_dir).vocab_size
    others = tuple((token,) for token in range(vocab_size) if token not in (5, 6, 7))
    sampling = SamplingParams(60, temperature, bad_token_sequences=others, seed=1, logprobs=True)

    def answer() -> tuple[Generation, int]:
        with Engine.open(engine_dir, threads=2) as engine:
            return engine.generate(ids_of(6, 20), sampling), engine.stats().steps

    drafted, few_steps = answer()
    monkeypatch.setattr(Drafter, "propose", lambda self, tokens, limit: tokens[:0])
    plain, steps = answer()
    assert drafted.token_ids == plain.token_ids
    np.testing.assert_allclose(drafted.logprobs or (), plain.logprobs or (), atol=1e-4)
    assert few_steps < steps - 5


def test_the_turns_of_a_chat_are_the_same_with_and_without_reuse(engine_dir: Path) -> None:
    def chat(reuse: bool) -> tuple[list[tuple[int, ...]], int]:
        with Engine.open(engine_dir, threads=2, prefix_reuse=reuse) as engine:
            tokens = ids_of(5, 20).tolist()
            answers = []
            for turn in range(4):
                answers.append(engine.generate(tokens, SamplingParams(8, 0.9, seed=turn)).token_ids)
                tokens += [*answers[-1], *ids_of(turn, 4).tolist()]
            return answers, engine.stats().reused_tokens

    (with_reuse, reused), (without, none) = chat(True), chat(False)
    assert with_reuse == without
    assert reused > 50 and none == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.decode(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)), "batch=0"),
        (lambda s: s.prefill(0, np.zeros(0, np.int32), past=3, rope_offset=0, project=0), "0 tokens"),
        (lambda s: s.prefill(5, ids_of(1, 2), past=0, rope_offset=0, project=0), "rows 5"),
        (lambda s: s.prefill(0, ids_of(1, 2), past=191, rope_offset=0, project=0), "a row holds 192"),
        (lambda s: s.prefill(0, ids_of(1, 2), past=-1, rope_offset=0, project=0), "past=-1"),
        (lambda s: s.prefill(0, ids_of(1, 2), past=0, rope_offset=0, project=3), "project=3"),
    ],
)
def test_what_would_kill_the_process_or_write_outside_a_row_is_refused(
    session: ModelSession, call: Callable[[ModelSession], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(session)


def test_a_budget_without_room_is_refused_before_the_model_is_loaded(engine_dir: Path) -> None:
    with pytest.raises(DoesNotFit, match="kv_budget_bytes=1000"):
        Engine.open(engine_dir, kv_budget_bytes=1000)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), CheckpointError, r"model\.onnx is missing"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"\x08\x09"), StageFailed, "cannot load"),
        (lambda folder: (folder / "model.onnx.data").unlink(), StageFailed, "cannot load"),
        (
            lambda folder: replace(folder / "engine.json", '"head_dim": 64', '"head_dim": 32'),
            CheckpointError,
            "shape",
        ),
        (
            lambda folder: replace(folder / "engine.json", '"num_layers": 2', '"num_layers": 3'),
            CheckpointError,
            "2",
        ),
    ],
    ids=["no model", "no onnx", "no weights", "other head_dim", "other layers"],
)
def test_a_folder_that_does_not_belong_together_is_refused(
    engine_dir: Path, tmp_path: Path, damage: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(engine_dir, folder)
    damage(folder)
    with pytest.raises(error, match=message):
        Engine.open(folder, threads=1)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_an_idle_session_takes_no_processor_time(engine_dir: Path) -> None:
    with Engine.open(engine_dir, threads=2) as engine:
        engine.generate(ids_of(1, 20), SamplingParams(20, 0.0))
        before = time.process_time()
        threading.Event().wait(0.5)
        assert time.process_time() - before < 0.1


def test_the_runtime_imports_only_what_a_model_repository_has() -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "onnxruntime", "enginewright_errors", "enginewright_onnx"}
    for path in Path(runtime.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed, f"{path.name} imports {name}"
                assert not name.startswith("enginewright_onnx") or name.startswith(
                    "enginewright_onnx.runtime"
                )
