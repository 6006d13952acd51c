"""The demo model, from the package index to eight streams at once: the real pipeline on a real chat model.

Builds share the user's cache (`$ENGINEWRIGHT_CACHE` or ~/.cache/enginewright), as `make demo` does: the first
run on a machine quantizes for some minutes, later ones reuse it.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from enginewright.cache import default_cache_folder
from enginewright.load_recipe import load_recipe, parse_set
from enginewright.pipeline import BuildResult, build
from enginewright.progress import PlainReporter
from enginewright.quality.figures import QualityReport
from enginewright.quality.gate import check_gate, gate_bounds
from enginewright.quality.texts import load_report_texts
from enginewright.recipe import GateRecipe, ReportRecipe
from enginewright.source import resolve_source
from enginewright.stages.report import measure_quality
from enginewright.verify_repository import verify_repository
from enginewright_client import Completion, SamplingParams, TritonClient
from enginewright_errors import GateFailed
from enginewright_onnx import EngineOptions, write_engine
from enginewright_serve import TritonServer
from safetensors.torch import load_file, save_file

RECIPE = "smollm2-135m-int4-awq"
QUESTIONS = [
    "What is the capital of France?",
    "Name three colors of the rainbow.",
    "What is the sun?",
    "Write one sentence about the sea.",
    "What do bees make?",
    "Say hello in Japanese: 日本語",
    "Repeat after me: \U0001f600\U0001f469‍\U0001f680",
    "What is two plus two?",
]
GREEDY = SamplingParams(max_tokens=48, temperature=0.0)


def build_smollm2(output: Path, *settings: str) -> BuildResult:
    stream = io.StringIO()
    recipe = load_recipe(RECIPE, [parse_set(text) for text in settings])
    return build(recipe, output, reporter=PlainReporter(stream, stream))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("smollm2") / "repository"
    return build_smollm2(output).output


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[TritonClient]:
    with serving(repository) as client:
        yield client


@contextmanager
def serving(repository: Path) -> Iterator[TritonClient]:
    with TritonServer(repository) as server, TritonClient(server.grpc_address, timeout=300) as client:
        yield client


def ask(client: TritonClient, question: str) -> Completion:
    return client.generate([{"role": "user", "content": question}], GREEDY)


@pytest.mark.timeout(1800)
def test_the_packaged_demo_is_what_its_manifest_says(repository: Path) -> None:
    verify_repository(repository)


@pytest.mark.timeout(1800)
def test_the_demo_answers_its_question(client: TritonClient) -> None:
    completion = ask(client, QUESTIONS[0])
    assert "Paris" in completion.text
    assert completion.finish_reason == "stop"


def stream_all(client: TritonClient) -> list[list[str]]:
    """The deltas of every question, asked at once."""

    def stream(question: str) -> list[str]:
        return [delta.text for delta in client.stream([{"role": "user", "content": question}], GREEDY)]

    with ThreadPoolExecutor(len(QUESTIONS)) as threads:
        return list(threads.map(stream, QUESTIONS))


@pytest.mark.timeout(1800)
def test_eight_streams_at_once_each_come_piece_by_piece_and_whole(client: TritonClient) -> None:
    answers = stream_all(client)
    assert all(len(deltas) > 1 for deltas in answers)
    assert "Paris" in "".join(answers[0])
    again = stream_all(client)
    # INT8 activations turn a last bit that differs with the batch into another token now and then, but never
    # at the start of an answer: the prompts were computed alone.
    assert [deltas[0] for deltas in answers] == [deltas[0] for deltas in again]


def measured(source: Path, checkpoint: Path, scratch: Path) -> QualityReport:
    """The quality of an engine of `checkpoint`, on the default text."""
    write_engine(checkpoint, scratch / "engine", EngineOptions(max_seq_len=256, kv_budget_bytes=1 << 28))
    (scratch / "report").mkdir()
    texts = load_report_texts(ReportRecipe(prompts=0, items=0), source, 256)
    return measure_quality(source, checkpoint, scratch / "engine", texts, 1, scratch / "report")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layer", [0, 12])
def test_a_scale_that_is_doubled_in_one_layer_breaks_the_default_gate(
    repository: Path, tmp_path: Path, layer: int
) -> None:
    """In the checkpoint, where the engine agrees with it: only the original tells."""
    cache = default_cache_folder()
    chain = json.loads((repository / "manifest.json").read_bytes())["chain"]
    checkpoint = shutil.copytree(cache / "quantize" / chain["quantize"]["key"] / "files", tmp_path / "wrong")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors[f"model.layers.{layer}.mlp.down_proj.weight_scale"].mul_(2)
    (checkpoint / "model.safetensors").unlink()
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    source = resolve_source(load_recipe(RECIPE).checkpoint, cache).folder
    with pytest.raises(GateFailed, match="report: "):
        check_gate(measured(source, checkpoint, tmp_path), gate_bounds(GateRecipe(), "int4_awq", 135_000_000))


EXACT = ("engine.accuracy_level=0", "engine.lm_head=fp32", "verify.samples=2")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("quantization", "bound"), [("none", 1e-4), ("int4_awq", 1e-3)])
def test_the_exact_engine_is_its_checkpoint_in_transformers(
    quantization: str, bound: float, tmp_path: Path
) -> None:
    settings = (f"quantization.format={quantization}", f"verify.max_logit_error={bound}", *EXACT)
    result = build_smollm2(tmp_path / "exact", *settings)
    measured = result.report["stages"]["verify"]["measured"]
    assert measured["logit_error"] <= bound
    assert measured["top1"] == 1.0


@pytest.mark.timeout(1800)
def test_eight_streams_of_the_exact_engine_say_what_each_answer_alone_says(tmp_path: Path) -> None:
    with serving(build_smollm2(tmp_path / "exact", *EXACT).output) as client:
        together = ["".join(deltas) for deltas in stream_all(client)]
        assert together == [ask(client, question).text for question in QUESTIONS]
