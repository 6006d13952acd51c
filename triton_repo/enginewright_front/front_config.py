"""`front.json`: what the front of one packaged model needs to know beside its engine and its tokenizer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from enginewright_errors import CheckpointError

FRONT_FORMAT = 1
MAX_PROMPT_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class FrontLimits:
    """What one server takes on. Bytes are of UTF-8, times in seconds.

    max_queue: requests that may wait beside those that run; one more is refused with UNAVAILABLE.
    max_tokens_default: max_tokens of a request that names none (less when the context leaves less).
    max_seconds: a request that runs longer is ended: a client behind a native ensemble cannot cancel.
    stall_seconds: an engine that made no step for so long under load is taken for hung.
    """

    max_queue: int = 256
    max_prompt_bytes: int = MAX_PROMPT_BYTES
    max_stop_words: int = 64
    max_stop_word_bytes: int = 256
    max_tokens_default: int = 256
    max_seconds: float = 3600.0
    stall_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What a request that says nothing gets. greedy: as if temperature were 0."""

    greedy: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The markers around a model's thinking. opened_by_template: the output begins after `open`."""

    open: str
    close: str
    opened_by_template: bool


@dataclass(frozen=True, slots=True)
class EngineModel:
    """A Triton model that runs one engine. slots: requests that decode at the same time."""

    name: str
    max_seq_len: int
    slots: int


@dataclass(frozen=True, slots=True)
class TensorrtLlm:
    """The models behind the front, and what they do not know of the checkpoint.

    models: the shortest context first; a request goes to the first that it fits.
    end_ids: the tokens that end an answer, the chat's own first. pad_id: what upstream's model wants named.
    silence_seconds: a request that has begun and brings no token for so long is given up.
    """

    models: tuple[EngineModel, ...]
    vocab_size: int
    end_ids: tuple[int, ...]
    pad_id: int
    silence_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class FrontConfig:
    """The whole of `front.json`. checkpoint: a folder beside it.

    backend: "onnx", whose engine is the folder `engine`, or "tensorrt_llm", described by the part of that
    name.
    """

    model_name: str
    backend: str = "onnx"
    engine: str = "engine"
    tensorrt_llm: TensorrtLlm | None = None
    checkpoint: str = "checkpoint"
    limits: FrontLimits = field(default_factory=FrontLimits)
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    reasoning: Reasoning | None = None


def write_front_config(config: FrontConfig, path: Path) -> None:
    """Write `config` as JSON: sorted keys, the same bytes for the same values."""
    data = {"format": FRONT_FORMAT, **asdict(config)}
    path.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_front_config(path: Path) -> FrontConfig:
    """The configuration in `path`. Raises CheckpointError naming the file and the field that is wrong."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _wrong(path, error.strerror or "cannot be read") from error
    except ValueError as error:
        raise _wrong(path, f"is not JSON ({error})") from error
    if not isinstance(data, dict) or data.pop("format", None) != FRONT_FORMAT:
        raise _wrong(path, f"is not of format {FRONT_FORMAT}")
    reasoning = data.pop("reasoning", None)
    models = data.pop("tensorrt_llm", None)
    parts = {
        "limits": _part(path, "limits", FrontLimits, data.pop("limits", {})),
        "defaults": _part(path, "defaults", SamplingDefaults, data.pop("defaults", {})),
        "reasoning": None if reasoning is None else _part(path, "reasoning", Reasoning, reasoning),
        "tensorrt_llm": None if models is None else _models(path, models),
    }
    made: FrontConfig = _part(path, "", FrontConfig, {**data, **parts})
    if made.backend == "tensorrt_llm" and made.tensorrt_llm is None:
        raise _wrong(path, "lacks tensorrt_llm, the part that its backend needs")
    return made


def _models(path: Path, data: Any) -> TensorrtLlm:
    made: TensorrtLlm = _part(path, "tensorrt_llm", TensorrtLlm, data)
    if not isinstance(made.models, list) or not made.models:
        raise _wrong(path, "tensorrt_llm.models is not a list of models")
    if not isinstance(made.end_ids, list) or not all(type(token) is int for token in made.end_ids):
        raise _wrong(path, "tensorrt_llm.end_ids is not a list of token ids")
    models = [_part(path, "tensorrt_llm.models", EngineModel, model) for model in made.models]
    return replace(
        made, models=tuple(sorted(models, key=lambda m: m.max_seq_len)), end_ids=tuple(made.end_ids)
    )


def _part(path: Path, name: str, kind: type[Any], data: Any) -> Any:
    where = f"{name}." if name else ""
    if not isinstance(data, dict):
        raise _wrong(path, f"{name} is not an object")
    known = {item.name: item.type for item in fields(kind)}
    for key, value in data.items():
        if key not in known:
            raise _wrong(path, f"has the unknown field {where}{key}")
        wanted = _PLAIN.get(str(known[key]))
        if wanted is not None and (
            not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)
        ):
            raise _wrong(path, f"{where}{key} is {value!r}, not of type {known[key]}")
    try:
        return kind(**data)
    except TypeError as error:
        raise _wrong(path, f"lacks a field ({error})") from error


_PLAIN: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "str": (str,),
}


def _wrong(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: {problem}", code="front-config", hint="package the model again")
