"""The transformers config of a checked model."""

from __future__ import annotations

from typing import Any

from enginewright_model import ModelSpec

__all__ = ["transformers_config"]


def transformers_config(spec: ModelSpec) -> Any:
    """A Qwen2Config or LlamaConfig made of `spec` and nothing else.

    Not of the checkpoint's own file: a pad_token_id beyond the vocabulary, say, would end the load in an
    assertion of torch, and none of the fields left out here changes a logit.
    """
    from transformers import AutoConfig

    return AutoConfig.for_model(
        spec.architecture,
        architectures=[spec.architecture_name],  # ModelOpt's export asks for it
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
        max_position_embeddings=spec.max_position_embeddings,
        rms_norm_eps=spec.rms_norm_eps,
        tie_word_embeddings=spec.tie_word_embeddings,
        rope_theta=spec.rope.rope_theta,
        rope_scaling=spec.rope.scaling,
        rope_parameters=spec.rope.as_json(),
    )
