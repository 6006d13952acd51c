"""config.pbtxt of `llm` and its aliases, from the wire's table alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from enginewright_front.wire import INPUTS, OUTPUTS, UNARY_INPUTS, VLLM_INPUTS, VLLM_OUTPUTS, Tensor

PUBLIC = "llm"
ENSEMBLES = ("ensemble", "tensorrt_llm_bls", "vllm_model")


def render_configs(parameters: Mapping[str, str]) -> dict[str, str]:
    """{model name: config.pbtxt} of the whole repository.

    parameters: what a client may read with get_model_config; repeated in every model, because an ensemble
    shows only its own.
    """
    configs = {
        PUBLIC: _python_model(PUBLIC, INPUTS, parameters, decoupled=True),
        "llm_unary": _python_model("llm_unary", UNARY_INPUTS, parameters, decoupled=False),
    }
    for name in ENSEMBLES:
        # Between an ensemble without batching and `llm` Triton adds the batch dimension, and drops it after.
        plain = name == "vllm_model"
        inputs, outputs = (VLLM_INPUTS, VLLM_OUTPUTS) if plain else (INPUTS, OUTPUTS)
        configs[name] = _ensemble(name, inputs, outputs, parameters, max_batch_size=0 if plain else 1)
    return configs


def _python_model(
    name: str, inputs: Sequence[Tensor], parameters: Mapping[str, str], *, decoupled: bool
) -> str:
    return "".join(
        [
            f'name: "{name}"\nbackend: "python"\nmax_batch_size: 1\n',
            f"model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}\n",
            _inputs(inputs),
            _outputs(OUTPUTS, batched=True),
            "instance_group [ { count: 1 kind: KIND_CPU } ]\n",
            _parameters(parameters),
        ]
    )


def _ensemble(
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    parameters: Mapping[str, str],
    *,
    max_batch_size: int,
) -> str:
    maps = [
        *(f'    input_map {{ key: "{tensor.name}" value: "{tensor.name}" }}\n' for tensor in inputs),
        *(f'    output_map {{ key: "{tensor.name}" value: "{tensor.name}" }}\n' for tensor in outputs),
    ]
    return "".join(
        [
            f'name: "{name}"\nplatform: "ensemble"\nmax_batch_size: {max_batch_size}\n',
            _inputs(inputs),
            _outputs(outputs, batched=max_batch_size > 0),
            f'ensemble_scheduling {{ step [ {{\n    model_name: "{PUBLIC}" model_version: -1\n',
            *maps,
            "} ] }\n",
            _parameters(parameters),
        ]
    )


def _inputs(tensors: Iterable[Tensor]) -> str:
    return _block("input", (f"{_tensor(tensor, tensor.dims)} optional: true }}" for tensor in tensors))


def _outputs(tensors: Iterable[Tensor], *, batched: bool) -> str:
    # Without batching a scalar arrives as [1] where `llm` says [1, 1]: any length fits both.
    return _block(
        "output", (f"{_tensor(tensor, tensor.dims if batched else (-1,))} }}" for tensor in tensors)
    )


def _tensor(tensor: Tensor, dims: tuple[int, ...]) -> str:
    return f'{{ name: "{tensor.name}" data_type: {tensor.data_type} dims: [ {", ".join(map(str, dims))} ]'


def _block(kind: str, members: Iterable[str]) -> str:
    return f"{kind} [\n" + ",\n".join(f"  {member}" for member in members) + "\n]\n"


def _parameters(parameters: Mapping[str, str]) -> str:
    return "".join(
        f"parameters {{ key: {_quoted(key)} value: {{ string_value: {_quoted(value)} }} }}\n"
        for key, value in sorted(parameters.items())
    )


def _quoted(text: str) -> str:
    # JSON's escapes of ASCII are protobuf's; \u is not, so other characters stay UTF-8.
    return json.dumps(text, ensure_ascii=False)
