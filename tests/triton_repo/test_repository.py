"""A packaged repository: configs that Triton's schema reads, all from one table; the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from enginewright_errors import CheckpointError
from enginewright_front.pbtxt import ENSEMBLES, render_configs
from enginewright_front.repository import write_repository
from enginewright_front.wire import INPUTS, OUTPUTS, PERF_OUTPUTS
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

SENT_BY_UPSTREAM = """
    text_input max_tokens bad_words stop_words end_id pad_id top_k top_p temperature length_penalty seed
    stream repetition_penalty min_tokens presence_penalty frequency_penalty return_log_probs beam_width
    num_return_sequences exclude_input_in_output return_perf_metrics return_num_input_tokens
    return_num_output_tokens
"""


def parsed(parameters: dict[str, str] | None = None) -> dict[str, Any]:
    """Every config.pbtxt as Triton reads it."""
    return {
        name: text_format.Parse(text, model_config_pb2.ModelConfig())
        for name, text in render_configs(parameters or {}).items()
    }


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A folder with the files of an engine; what is in them does not matter here."""
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "engine.json").write_text(
        json.dumps({"limits": {"max_seq_len": 512}, "quantization": {"format": "none"}})
    )
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "model.onnx.data").write_bytes(b"weights")
    return folder


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_model_of_the_wire_contract_has_a_config() -> None:
    configs = parsed()
    assert set(configs) == {"llm", "llm_unary", "ensemble", "tensorrt_llm_bls", "vllm_model"}
    assert all(config.name == name for name, config in configs.items())
    assert configs["llm"].model_transaction_policy.decoupled
    assert not configs["llm_unary"].model_transaction_policy.decoupled


@pytest.mark.parametrize("name", ["llm", "llm_unary", *ENSEMBLES])
def test_every_input_is_optional(name: str) -> None:
    """A required one that is missing hangs a request to an ensemble for ever."""
    assert all(tensor.optional for tensor in parsed()[name].input)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_maps_everything_that_it_declares_to_llm(name: str) -> None:
    configs = parsed()
    step = configs[name].ensemble_scheduling.step[0]
    llm_inputs = {tensor.name: tensor.data_type for tensor in configs["llm"].input}
    assert step.model_name == "llm"
    assert dict(step.input_map) == {tensor.name: tensor.name for tensor in configs[name].input}
    assert dict(step.output_map) == {tensor.name: tensor.name for tensor in configs[name].output}
    assert all(llm_inputs[tensor.name] == tensor.data_type for tensor in configs[name].input)


@pytest.mark.parametrize("name", ["llm", "ensemble", "tensorrt_llm_bls"])
def test_what_upstreams_client_sends_and_reads_is_declared(name: str) -> None:
    config = parsed()[name]
    assert {tensor.name for tensor in config.input} >= set(SENT_BY_UPSTREAM.split())
    assert {"text_output", "cum_log_probs", "output_log_probs", *PERF_OUTPUTS} <= {
        t.name for t in config.output
    }
    assert config.max_batch_size == 1


def test_names_are_declared_once() -> None:
    for table in (INPUTS, OUTPUTS):
        names = [tensor.name for tensor in table]
        assert len(names) == len(set(names))


def test_parameters_survive_quotes_and_unicode() -> None:
    values = {"reasoning.open": "<思考>", "model": 'a "b"\\ \n c'}
    for config in parsed(values).values():
        assert {key: value.string_value for key, value in config.parameters.items()} == values


def test_the_repository_runs_its_own_copy_of_the_code(checkpoint: Path, engine: Path, tmp_path: Path) -> None:
    """Of the installed packages none is imported, nor anything that a serving container lacks."""
    write_repository(tmp_path / "out", engine=engine, checkpoint=checkpoint, name="tiny")
    version = tmp_path / "out" / "llm" / "1"
    program = (
        "import sys, types, importlib.util\n"
        "sys.modules['triton_python_backend_utils'] = types.ModuleType('triton_python_backend_utils')\n"
        f"spec = importlib.util.spec_from_file_location('1.model', {str(version / 'model.py')!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "import enginewright_onnx.runtime\n"
        "ours = [m.__file__ for n, m in sys.modules.items() if n.startswith('enginewright')]\n"
        "print(*ours, sep='\\n')\n"
        "print(*(n for n in ('torch', 'transformers', 'onnx', 'pydantic') if n in sys.modules))\n"
    )
    *files, heavy = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout.split("\n")[:-1]
    assert len(files) > 20
    assert all(Path(file).is_relative_to(version) for file in files)
    assert heavy == ""


def test_the_same_inputs_give_the_same_bytes(checkpoint: Path, engine: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_repository(
            tmp_path / name, engine=engine, checkpoint=checkpoint, name="tiny", max_tokens_default=77
        )
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    written = hashes(tmp_path / "a")
    assert {"llm/1/engine/model.onnx.data", "llm/1/checkpoint/tokenizer.json", "llm/1/front.json"} <= set(
        written
    )
    assert not any("__pycache__" in path for path in written)
    front = json.loads((tmp_path / "a" / "llm" / "1" / "front.json").read_text())
    assert front["limits"]["max_tokens_default"] == 77
    assert front["limits"]["max_prompt_bytes"] == 65536, "512 tokens are never 8 MiB of text"


def test_a_missing_tokenizer_and_a_damaged_engine_are_named(
    checkpoint: Path, engine: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: missing"):
        write_repository(tmp_path / "out", engine=engine, checkpoint=tmp_path, name="tiny")
    (engine / "engine.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"engine\.json"):
        write_repository(tmp_path / "out", engine=engine, checkpoint=checkpoint, name="tiny")
