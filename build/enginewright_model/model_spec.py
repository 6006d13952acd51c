"""What a config.json says about a Qwen2 or Llama decoder, checked and under one set of names.

`read_model_spec` refuses what the engines of this project would compute wrongly: a wrong answer that looks
right is worse than a refusal. Field meanings: transformers' Qwen2Config and LlamaConfig.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from enginewright_errors import CheckpointError

from enginewright_model.fields import MAX_POSITIONS, Config, flag, invalid, number, short, whole
from enginewright_model.rope_spec import RopeSpec, read_rope_spec

__all__ = ["ARCHITECTURES", "Dtype", "Family", "ModelSpec", "read_model_spec"]

Family = Literal["qwen2", "llama"]
Dtype = Literal["bfloat16", "float16", "float32"]

ARCHITECTURES: Mapping[str, Family] = {"Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama"}
_DTYPES: tuple[Dtype, ...] = ("bfloat16", "float16", "float32")
_MAX_LAYERS = 1024


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Dimensions and constants of a decoder: grouped-query attention, SiLU MLP, RMSNorm before each.

    architecture: transformers' model_type. dtype: what the config names; None when it names none.
    """

    architecture: Family
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope: RopeSpec
    dtype: Dtype | None = None

    @property
    def architecture_name(self) -> str:
        """The name of transformers' class, which TensorRT-LLM's models share."""
        return next(name for name, family in ARCHITECTURES.items() if family == self.architecture)

    @property
    def qkv_bias(self) -> bool:
        """Whether q, k and v have a bias (they do in Qwen2 and nowhere else in these families)."""
        return self.architecture == "qwen2"

    @property
    def query_size(self) -> int:
        """Elements of one token's queries in one layer."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Elements of one token's keys (or values) in one layer."""
        return self.num_kv_heads * self.head_dim

    @property
    def qkv_size(self) -> int:
        return self.query_size + 2 * self.kv_size

    @property
    def linear_input_widths(self) -> tuple[int, ...]:
        """The distinct input widths of the quantized linears: what a quantization group has to divide."""
        return tuple(sorted({self.hidden_size, self.query_size, self.intermediate_size}))


def read_model_spec(config: Config, *, default_theta: float | None = None) -> ModelSpec:
    """Check the fields of a config.json and return them as a `ModelSpec`.

    default_theta: the rope_theta of a config that gives none; None refuses it.
    Raises CheckpointError: names the field, its value, and what would be accepted.
    """
    architecture = _architecture(config)
    _refuse_variants(config, architecture)
    hidden, heads = whole(config, "hidden_size"), whole(config, "num_attention_heads")
    kv_heads = whole(config, "num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise invalid("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads = {heads}")
    if config.get("head_dim") is None and hidden % heads:
        raise invalid("hidden_size", hidden, f"a multiple of num_attention_heads = {heads}")
    head_dim = whole(config, "head_dim", default=hidden // heads)
    if head_dim % 2:
        raise invalid("head_dim", head_dim, "an even number: rotary embedding pairs the elements")
    return ModelSpec(
        architecture=architecture,
        hidden_size=hidden,
        intermediate_size=whole(config, "intermediate_size"),
        num_layers=whole(config, "num_hidden_layers", highest=_MAX_LAYERS),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=whole(config, "vocab_size"),
        max_position_embeddings=whole(config, "max_position_embeddings", highest=MAX_POSITIONS),
        rms_norm_eps=number("rms_norm_eps", config.get("rms_norm_eps", 1e-6), 1e-12, 1e-1),
        tie_word_embeddings=flag(config, "tie_word_embeddings"),
        rope=read_rope_spec(config, default_theta=default_theta),
        dtype=_dtype(config),
    )


def _architecture(config: Config) -> Family:
    named = config.get("architectures")
    architecture = ARCHITECTURES.get(str(named[0])) if isinstance(named, list) and len(named) == 1 else None
    if architecture is None:
        raise CheckpointError(
            f"config.json: architectures is {short(named)}, which is not supported",
            code="architecture-unsupported",
            hint=f"supported architectures: {', '.join(sorted(ARCHITECTURES))}",
        )
    model_type = config.get("model_type", architecture)
    if model_type != architecture:
        raise invalid("model_type", model_type, f"{architecture!r}, to match architectures = {short(named)}")
    return architecture


def _dtype(config: Config) -> Dtype | None:
    """`dtype` of transformers 5, or the `torch_dtype` of 4.x."""
    given = {name: config[name] for name in ("dtype", "torch_dtype") if config.get(name) is not None}
    for name, value in given.items():
        if value not in _DTYPES:
            raise invalid(name, value, f"one of {', '.join(_DTYPES)}: the type of the weights")
    return cast("Dtype", next(iter(given.values()))) if given else None


def _refuse_variants(config: Config, architecture: Family) -> None:
    """Refuse the variants of the two families that share their name and not their arithmetic."""
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise invalid("hidden_act", activation, "'silu'")
    for name in ("attention_bias", "mlp_bias"):
        if architecture == "llama" and flag(config, name):
            raise invalid(name, True, "false: these biases are not in any released Llama")
    if _slides(config):
        raise CheckpointError(
            f"config.json: sliding_window = {short(config.get('sliding_window'))} is in use,"
            " and sliding-window attention is not supported",
            code="sliding-window",
            hint="set use_sliding_window to false if the model is to attend to its whole context",
        )


def _slides(config: Config) -> bool:
    """Whether any layer attends to a window: Qwen2Config's rule, its defaults included."""
    layer_types = config.get("layer_types")
    if layer_types is not None:
        if not isinstance(layer_types, list):
            raise invalid("layer_types", layer_types, "a list, or null")
        return any(kind != "full_attention" for kind in layer_types)
    if not flag(config, "use_sliding_window") or config.get("sliding_window", 4096) is None:
        return False
    return whole(config, "max_window_layers", default=28, lowest=0) < whole(config, "num_hidden_layers")
