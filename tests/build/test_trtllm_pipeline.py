"""A TensorRT-LLM build end to end: real ModelOpt, a stand-in for trtllm-build, the packaged repository."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enginewright.build_run import BuildResult
from enginewright.handoff import read_handoff
from enginewright.load_recipe import load_trtllm_recipe, parse_set
from enginewright.progress import PlainReporter
from enginewright.trtllm_pipeline import build_trtllm
from enginewright.verify_repository import verify_repository
from enginewright_errors import EnginewrightError
from enginewright_front.front_config import read_front_config
from enginewright_trtllm.check_repository import check_repository
from google.protobuf import text_format
from gpu_host import H100, GpuHost
from tritonclient.grpc import model_config_pb2

SETTINGS = (
    "name=tiny",
    "quantization.calibration={samples: 2, length: 64}",
    "trtllm.max_seq_len=256",
    "trtllm.max_num_tokens=256",
    "trtllm.max_batch_size=4",
)
LONG = ("context.native=256", "context.long={max_seq_len: 1024, factor: 4.0}")
FP8 = ["quantize", "checkpoint", "verify", "compile-native", "package"]


@pytest.fixture(scope="module")
def checkpoint(tiny: Callable[..., Path]) -> Path:
    """QwQ's proportions: 40 query heads on 8 KV heads, biases on q, k and v."""
    return tiny(arch="qwen2", hidden=640, intermediate=256, layers=1, heads=40, kv_heads=8, dtype="bfloat16")


class Builds:
    """Builds on one machine into one root."""

    def __init__(self, root: Path, host: GpuHost) -> None:
        self.root, self.host = root, host
        self.out, self.cache = root / "out", root / "cache"
        self.text = ""

    def __call__(self, named: Path, *settings: str, **arguments: Any) -> BuildResult:
        stream = io.StringIO()
        handoff = read_handoff(named)
        given = settings if handoff is not None else (*SETTINGS, *settings)
        recipe = load_trtllm_recipe(str(named), [parse_set(text) for text in given])
        output = arguments.pop("output", self.out)
        try:
            return build_trtllm(
                recipe,
                output,
                reporter=PlainReporter(stream, stream),
                cache_folder=self.cache,
                handoff=handoff,
                **arguments,
            )
        finally:
            self.text = stream.getvalue()

    def fails(
        self, kind: type[EnginewrightError], named: Path, *settings: str, **arguments: Any
    ) -> EnginewrightError:
        with pytest.raises(kind) as caught:
            self(named, *settings, **arguments)
        assert "\n" not in caught.value.message + caught.value.hint
        assert caught.value.hint
        return caught.value

    @property
    def manifest(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.out / "manifest.json").read_bytes())
        return loaded


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuHost:
    """A machine without a GPU, until a test gives it one."""
    made = GpuHost(tmp_path / "host")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def build(tmp_path: Path, host: GpuHost) -> Builds:
    (tmp_path / "root").mkdir()
    return Builds(tmp_path / "root", host)


@pytest.fixture
def gpu_build(build: Builds) -> Builds:
    """The same with a builder and an H100."""
    build.host.gpus(H100)
    build.host.builder()
    return build


def names_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_build_on_a_gpu_host_ends_in_a_repository_that_is_clean(
    gpu_build: Builds, checkpoint: Path
) -> None:
    result = gpu_build(checkpoint)
    assert list(result.reused) == FP8
    assert result.next_steps == ""
    out = gpu_build.out
    assert check_repository(out) == ()
    for config in out.glob("*/config.pbtxt"):
        text = config.read_text()
        assert "${" not in text
        assert text_format.Parse(text, model_config_pb2.ModelConfig()).name == config.parent.name
    assert names_of(out / "tensorrt_llm" / "1" / "engine") == {"config.json", "rank0.engine"}
    assert verify_repository(out).manifest_sha256 == result.manifest_sha256
    front = read_front_config(out / "llm" / "1" / "front.json")
    assert front.tensorrt_llm is not None
    assert [model.max_seq_len for model in front.tensorrt_llm.models] == [256]
