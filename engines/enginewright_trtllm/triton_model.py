"""config.pbtxt of the C++ model of a variant, from the tables of tensors and parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable

from enginewright_model import ModelSpec

from enginewright_trtllm.device_memory import device_memory
from enginewright_trtllm.target import TrtllmTarget, Variant
from enginewright_trtllm.triton_parameters import Parameter, backend_parameters
from enginewright_trtllm.triton_tensors import INPUTS, LOGITS, OUTPUTS, Tensor

__all__ = ["render_triton_model"]

_LOGITS_TYPES = {"float16": "TYPE_FP16", "float32": "TYPE_FP32"}


def render_triton_model(
    target: TrtllmTarget, variant: Variant, dims: ModelSpec, *, repository: str = "/models"
) -> str:
    """The text of `MODEL/config.pbtxt`, MODEL = target.model_name(variant), the engine in `MODEL/1/engine`.

    repository: the absolute path at which the server sees the repository. Raises RecipeError for a GPU that
    is not in the table.
    """
    parameters = backend_parameters(target, variant, device_memory(target, dims), repository=repository)
    logits = _LOGITS_TYPES[target.logits_dtype]
    batch = target.max_batch_size
    return "".join(
        [
            f'name: "{target.model_name(variant)}"\nbackend: "tensorrtllm"\nmax_batch_size: {batch}\n',
            "model_transaction_policy { decoupled: true }\n",
            # The executor schedules by itself: Triton hands requests over at once, and bounds the queue.
            f"dynamic_batching {{\n  preferred_batch_size: [ {batch} ]\n  max_queue_delay_microseconds: 0\n"
            f"  default_queue_policy {{ max_queue_size: {target.max_queue_size} }}\n}}\n",
            _tensors("input", (_input(tensor, logits) for tensor in INPUTS)),
            _tensors("output", (f"{_head(tensor, logits)} }}" for tensor in OUTPUTS)),
            "instance_group [ { count: 1 kind: KIND_CPU } ]\n",
            *(_parameter(parameter) for parameter in parameters),
        ]
    )


def _tensors(kind: str, members: Iterable[str]) -> str:
    return f"{kind} [\n" + ",\n".join(f"  {member}" for member in members) + "\n]\n"


def _input(tensor: Tensor, logits: str) -> str:
    extras = [
        " reshape { shape: [ ] }" if tensor.scalar else "",
        " optional: true" if tensor.optional else "",
        " allow_ragged_batch: true" if tensor.ragged else "",
    ]
    return _head(tensor, logits) + "".join(extras) + " }"


def _head(tensor: Tensor, logits: str) -> str:
    data_type = logits if tensor.data_type == LOGITS else tensor.data_type
    return f'{{ name: "{tensor.name}" data_type: {data_type} dims: [ {", ".join(map(str, tensor.dims))} ]'


def _parameter(parameter: Parameter) -> str:
    value = json.dumps(parameter.value, ensure_ascii=False)
    return f'parameters {{ key: "{parameter.name}" value {{ string_value: {value} }} }}\n'
