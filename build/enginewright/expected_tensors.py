"""The tensors that a checkpoint of a model must hold."""

from __future__ import annotations

from enginewright_model import ModelSpec

__all__ = ["expected_tensors"]


def expected_tensors(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint of `spec` must hold (linears are [out, in])."""
    hidden, width = spec.hidden_size, spec.num_heads * spec.head_dim
    kv_width, inner = spec.num_kv_heads * spec.head_dim, spec.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocab_size, hidden)}
    for layer in range(spec.num_layers):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        for name, rows in (("q_proj", width), ("k_proj", kv_width), ("v_proj", kv_width)):
            shapes[f"{prefix}self_attn.{name}.weight"] = (rows, hidden)
            if spec.qkv_bias:
                shapes[f"{prefix}self_attn.{name}.bias"] = (rows,)
        shapes[prefix + "self_attn.o_proj.weight"] = (hidden, width)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        shapes[prefix + "mlp.gate_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[prefix + "mlp.down_proj.weight"] = (hidden, inner)
    shapes["model.norm.weight"] = (hidden,)
    if not spec.tie_word_embeddings:
        shapes["lm_head.weight"] = (spec.vocab_size, hidden)
    return shapes
