"""Triton's description of a model, and of a repository, as values of this package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from enginewright_client._models import ModelConfig, ModelInfo, TensorSpec

__all__ = ["decode_model_config", "decode_repository_index", "decode_statistics"]


def decode_model_config(config: Any) -> ModelConfig:
    """Triton's ModelConfig message as ours. `default.X`, `limit.X` and `reasoning.X` are grouped."""
    strings = {name: value.string_value for name, value in sorted(config.parameters.items())}
    groups: dict[str, dict[str, Any]] = {"default": {}, "limit": {}, "reasoning": {}}
    for name, text in strings.items():
        group, _, key = name.partition(".")
        if key and group in groups:
            groups[group][key] = _json_or_text(text)
    length = _json_or_text(strings.get("max_seq_len", ""))
    return ModelConfig(
        name=config.name,
        max_seq_len=length if isinstance(length, int) else None,
        parameters=strings,
        defaults=groups["default"],
        limits=groups["limit"],
        reasoning=groups["reasoning"],
        inputs=_tensors(config.input),
        outputs=_tensors(config.output),
        max_batch_size=config.max_batch_size,
        decoupled=config.model_transaction_policy.decoupled,
    )


def decode_repository_index(response: Any) -> list[ModelInfo]:
    """A RepositoryIndexResponse, sorted by name and version."""
    models = (ModelInfo(model.name, model.version, model.state, model.reason) for model in response.models)
    return sorted(models, key=lambda model: (model.name, model.version))


def decode_statistics(response: Any) -> list[ModelInfo]:
    """A ModelStatisticsResponse: it tells of loaded models alone."""
    models = (ModelInfo(model.name, model.version, "READY") for model in response.model_stats)
    return sorted(models, key=lambda model: (model.name, model.version))


def _tensors(tensors: Iterable[Any]) -> dict[str, TensorSpec]:
    return {
        tensor.name: TensorSpec(
            tensor.name,
            _datatype(tensor),
            tuple(tensor.dims),
            optional=bool(getattr(tensor, "optional", False)),
        )
        for tensor in tensors
    }


def _datatype(tensor: Any) -> str:
    from tritonclient.grpc import model_config_pb2 as pb

    name: str = pb.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _json_or_text(text: str) -> Any:
    parse: Callable[[str], Any] = json.loads
    try:
        return parse(text)
    except ValueError:
        return text
