"""Turn a Llama GGUF file into a Hugging Face checkpoint: safetensors, config, tokenizer, generation config.

Not through transformers' `gguf_file`: 5.14 reads this tokenizer's end token as `<|im_start|>` and drops the
pre-tokenizer that splits digits, 5.23 keeps the weights packed, and loading takes 11 s instead of 2.
GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the row order of q and k is that of
llama.cpp's `convert_hf_to_gguf.py`, undone here.

Weights are stored as FP16. Of SmolLM2's Q4_1 values, FP16 rounds 42% (root mean square 3.5e-5) and BF16 79%
(2.5e-4); against FP32 the FP16 model has a mean KL below 5e-5 and the same top-1 token in 99.9% of places.
The same file always gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from enginewright_errors import CheckpointError
from numpy.typing import NDArray

__all__ = ["write_checkpoint_from_gguf"]

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_CONTROL_TOKEN = 3  # of tokenizer.ggml.token_type


def write_checkpoint_from_gguf(gguf_file: Path, folder: Path, sampling: Mapping[str, Any]) -> None:
    """Write the checkpoint of `gguf_file` into `folder`, which exists.

    `sampling`: fields for generation_config.json that a GGUF does not hold (temperature, top_p, ...).

    Raises:
        CheckpointError: the file is not a Llama GGUF with a byte-level BPE tokenizer.
    """
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    reader = GGUFReader(gguf_file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields["general.architecture"] != "llama" or fields.get("tokenizer.ggml.pre") != "smollm":
        raise CheckpointError(
            f"{gguf_file.name} is {fields['general.architecture']!r} with the tokenizer "
            f"{fields.get('tokenizer.ggml.pre')!r}; only llama with smollm is converted",
            code="gguf-unsupported",
            hint="start from the safetensors checkpoint of the model",
        )
    tensors = dict(_tensors(reader, fields))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", _config(fields, tied="lm_head.weight" not in tensors))
    _write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
            "eos_token_id": [fields["tokenizer.ggml.eos_token_id"]],
            "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
            **sampling,
        },
    )
    _write_tokenizer(folder, fields)


def _tensors(reader: Any, fields: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[np.float16]]]:
    from gguf.quants import dequantize

    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    for tensor in reader.tensors:
        stem = tensor.name.removesuffix(".weight")
        value = dequantize(tensor.data, tensor.tensor_type)
        if stem in _TOP:
            name = _TOP[stem]
        else:
            _, layer, part = stem.split(".")
            name = f"model.layers.{layer}.{_LAYER[part]}"
            if part in heads:
                value = _interleaved_to_halves(value, heads[part])
        yield f"{name}.weight", np.ascontiguousarray(value, dtype=np.float16)


def _interleaved_to_halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of q or k from llama.cpp's rotary order (pairs side by side) to Hugging Face's (two halves)."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _config(fields: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    theta = float(fields["llama.rope.freq_base"])
    heads, hidden = fields["llama.attention.head_count"], fields["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "dtype": "float16",
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": fields["llama.feed_forward_length"],
        "max_position_embeddings": fields["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": fields["llama.block_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        # The file holds it as FP32: 9.999999747378752e-06 is 1e-05.
        "rms_norm_eps": float(str(np.float32(fields["llama.attention.layer_norm_rms_epsilon"]))),
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "rope_theta": theta,
        "tie_word_embeddings": tied,
        "vocab_size": fields["llama.vocab_size"],
    }


def _write_tokenizer(folder: Path, fields: Mapping[str, Any]) -> None:
    """Byte-level BPE; the pre-tokenizer `smollm` splits digits (llama.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM)."""
    from tokenizers import (  # type: ignore[import-untyped]
        AddedToken,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
    )

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
    }
    _write_json(
        folder / "tokenizer_config.json",
        {
            **named,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": fields["llama.context_length"],
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    template: str = fields["tokenizer.chat_template"]
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
