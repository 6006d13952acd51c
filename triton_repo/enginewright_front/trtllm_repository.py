"""Writes a model repository with TensorRT-LLM's C++ model, one for each variant, behind the same front.

    out/llm/..., out/llm_unary/..., out/ensemble/..., as `repository` has them, without an engine
    out/tensorrt_llm/config.pbtxt
    out/tensorrt_llm/1/engine/{config.json, rank0.engine, ...}
    out/tensorrt_llm_long/...

The engines' configs come rendered: what they say is the affair of who built the engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from enginewright_errors import CheckpointError
from enginewright_model import read_json_object, read_token_ids

from enginewright_front.front_config import EngineModel, FrontConfig, TensorrtLlm
from enginewright_front.pbtxt import PUBLIC
from enginewright_front.repository import copy_checkpoint, front_config, link_files, write_repository_models

# The slowest prefill to reckon with: until its first token a request at the limit is silent.
_PREFILL_TOKENS_PER_SECOND = 500


@dataclass(frozen=True, slots=True)
class TrtllmEngine:
    """One variant. config: the text of its config.pbtxt. folder: the engine, as trtllm-build left it."""

    model: EngineModel
    config: str
    folder: Path


def write_trtllm_repository(
    out: Path,
    *,
    engines: Sequence[TrtllmEngine],
    checkpoint: Path,
    name: str,
    quantization: str,
    max_queue: int = 256,
    max_tokens_default: int = 256,
) -> None:
    """Write the whole repository into the empty folder `out`.

    checkpoint: the folder with config.json, tokenizer, chat template and generation config. name: what the
    model is called to people. quantization: the format's name, which clients can read. Raises CheckpointError
    naming the file that is wrong.
    """
    models = tuple(sorted((engine.model for engine in engines), key=lambda model: model.max_seq_len))
    longest = models[-1].max_seq_len
    plain = front_config(
        checkpoint,
        max_seq_len=longest,
        name=name,
        max_queue=max_queue,
        max_tokens_default=max_tokens_default,
    )
    front = replace(
        plain,
        backend="tensorrt_llm",
        tensorrt_llm=_described(checkpoint, models),
        limits=replace(
            plain.limits, stall_seconds=plain.limits.stall_seconds + longest / _PREFILL_TOKENS_PER_SECOND
        ),
    )
    _check_defaults(checkpoint, front)
    parameters = {"engine": front.backend, "max_seq_len": str(longest), "quantization": quantization}
    write_repository_models(out, front, parameters=parameters)
    copy_checkpoint(checkpoint, out / PUBLIC / "1" / front.checkpoint)
    for engine in engines:
        folder = out / engine.model.name
        link_files(engine.folder, folder / "1" / "engine")
        (folder / "config.pbtxt").write_text(engine.config, encoding="utf-8")


def _described(checkpoint: Path, models: tuple[EngineModel, ...]) -> TensorrtLlm:
    config = read_json_object(checkpoint / "config.json")
    tokens = read_token_ids(checkpoint)
    if not tokens.eos:
        raise _wrong(checkpoint / "config.json", "names no eos_token_id")
    # Nothing is padded with one request a batch, but upstream's model wants a pad id.
    pad_id = tokens.eos[0] if tokens.pad is None else tokens.pad
    vocab_size = config.get("vocab_size")
    if type(vocab_size) is not int:
        raise _wrong(checkpoint / "config.json", f"vocab_size is {vocab_size!r}")
    return TensorrtLlm(models, vocab_size, tokens.eos, pad_id)


def _check_defaults(checkpoint: Path, front: FrontConfig) -> None:
    if front.defaults.min_p > 0 and not front.defaults.greedy:
        raise _wrong(
            checkpoint / "generation_config.json",
            f"min_p is {front.defaults.min_p:g}, which TensorRT-LLM's model does not have",
        )


def _wrong(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: {problem}", code="checkpoint-config", hint="correct the checkpoint")
