"""The geometry of a decoder that the ONNX engine can express, read from a Hugging Face config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import CheckpointError

from enginewright_onnx.rope_spec import RopeSpec, read_rope_spec

__all__ = ["ModelSpec", "read_model_spec"]

# Far above any model of these families, far below what would make arithmetic on sizes meaningless.
_MAX_COUNT = 1 << 24
_MAX_LAYERS = 1024
_ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A Qwen2 or Llama decoder: pre-norm blocks of grouped-query attention and SiLU MLP.

    qkv_bias: q, k and v projections carry a bias (Qwen2).
    Token ids come from generation_config.json where it has them, else from config.json.
    """

    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    qkv_bias: bool
    max_position_embeddings: int
    rope: RopeSpec
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    bos_token_id: int | None

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of float32 keys and values that one token keeps over all layers."""
        return 2 * self.num_layers * self.kv_size * 4


def read_model_spec(folder: Path) -> ModelSpec:
    """The spec of the checkpoint in `folder`.

    Raises CheckpointError, naming the field, for a missing or malformed value and for what the graph cannot
    express: another architecture, a sliding window in use, another activation, a bias outside q, k and v.
    """
    config = _read_json(folder / "config.json")
    if config is None:
        raise CheckpointError(
            f"{folder / 'config.json'} does not exist",
            code="missing-config",
            hint="give a Hugging Face checkpoint",
        )
    architecture = _architecture(config)
    _refuse_what_the_graph_lacks(config, architecture)
    hidden, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    kv_heads = heads if config.get("num_key_value_heads") is None else _count(config, "num_key_value_heads")
    if config.get("head_dim") is None and hidden % heads:
        raise _malformed("hidden_size", hidden, f"it must be a multiple of num_attention_heads ({heads})")
    head_dim = hidden // heads if config.get("head_dim") is None else _count(config, "head_dim")
    if heads % kv_heads:
        raise _malformed("num_key_value_heads", kv_heads, f"it must divide num_attention_heads ({heads})")
    if head_dim % 16:
        raise _malformed("head_dim", head_dim, "ONNX Runtime's GroupQueryAttention needs a multiple of 16")
    generation = _read_json(folder / "generation_config.json") or {}
    return ModelSpec(
        architecture=architecture,
        hidden_size=hidden,
        num_layers=_count(config, "num_hidden_layers", maximum=_MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=_count(config, "intermediate_size"),
        vocab_size=_count(config, "vocab_size"),
        rms_norm_eps=_epsilon(config),
        tie_word_embeddings=_flag(config, "tie_word_embeddings"),
        qkv_bias=architecture == "qwen2",
        max_position_embeddings=_count(config, "max_position_embeddings"),
        rope=read_rope_spec(config),
        eos_token_ids=_token_ids(config, generation, "eos_token_id"),
        pad_token_id=_token_id(config, generation, "pad_token_id"),
        bos_token_id=_token_id(config, generation, "bos_token_id"),
    )


def _architecture(config: Mapping[str, Any]) -> str:
    model_type, classes = config.get("model_type"), config.get("architectures")
    expected = _ARCHITECTURES.get(model_type) if isinstance(model_type, str) else None
    if not isinstance(model_type, str) or expected is None or classes not in (None, [expected]):
        raise CheckpointError(
            f"config.json: model_type is {_short(model_type)}, architectures is {_short(classes)}",
            code="unsupported-architecture",
            hint=f"the ONNX engine knows {', '.join(_ARCHITECTURES.values())}",
        )
    return model_type


def _refuse_what_the_graph_lacks(config: Mapping[str, Any], architecture: str) -> None:
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise _unsupported("hidden_act", activation, "the ONNX engine's MLP is SiLU only")
    for field in ("mlp_bias", "attention_bias"):
        # Llama's attention_bias also puts one on o_proj; Qwen2's q/k/v bias is not named by a field.
        if architecture == "llama" and _flag(config, field):
            raise _unsupported(field, True, "the ONNX engine has biases on q, k and v of Qwen2 only")
    layer_types = config.get("layer_types")
    if layer_types is not None and not isinstance(layer_types, list):
        raise _malformed("layer_types", layer_types, "it must be a list, or absent")
    windows = [kind for kind in layer_types or () if kind != "full_attention"]
    if windows:
        raise _unsupported("layer_types", windows[0], "the ONNX engine attends to the full context only")
    if architecture == "qwen2" and _flag(config, "use_sliding_window") and not layer_types:
        # transformers slides the layers from max_window_layers on.
        full = _count(config, "max_window_layers", minimum=0)
        if full < _count(config, "num_hidden_layers"):
            raise _unsupported("use_sliding_window", True, "the ONNX engine attends to the full context only")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON: {error}",
            code="malformed-config",
            hint="download the file again",
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds no object", code="malformed-config", hint="download the file again"
        )
    return content


def _count(config: Mapping[str, Any], field: str, minimum: int = 1, maximum: int = _MAX_COUNT) -> int:
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise _malformed(field, value, f"it must be a whole number from {minimum} to {maximum}")
    return value


def _flag(config: Mapping[str, Any], field: str) -> bool:
    value = config.get(field)
    if value is not None and not isinstance(value, bool):
        raise _malformed(field, value, "it must be true or false")
    return bool(value)


def _epsilon(config: Mapping[str, Any]) -> float:
    value = config.get("rms_norm_eps")
    if not isinstance(value, float) or not 0 < value < 1:
        raise _malformed("rms_norm_eps", value, "it must lie between 0 and 1")
    return value


def _token_ids(config: Mapping[str, Any], generation: Mapping[str, Any], field: str) -> tuple[int, ...]:
    value = generation.get(field, config.get(field))
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for item in ids:
        if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < _MAX_COUNT:
            raise _malformed(field, value, "it must be a token id or a list of them")
    return tuple(ids)


def _token_id(config: Mapping[str, Any], generation: Mapping[str, Any], field: str) -> int | None:
    ids = _token_ids(config, generation, field)
    return ids[0] if ids else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _malformed(field: str, value: object, hint: str) -> CheckpointError:
    return CheckpointError(f"config.json: {field} is {_short(value)}", code="malformed-config", hint=hint)


def _unsupported(field: str, value: object, hint: str) -> CheckpointError:
    return CheckpointError(f"config.json: {field} is {_short(value)}", code="unsupported-model", hint=hint)
