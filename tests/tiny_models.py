"""Tiny random checkpoints of real structure: Qwen2 with QKV bias, Llama; tied, untied; a real tokenizer.

Weights are drawn wide enough that logits have a scale of several units and greedy continuations are not
constant, so that a numeric comparison can fail.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXT = [
    "The capital of France is Paris, and the capital of Japan is Tokyo.",
    "In-flight batching lets requests join and leave between two decode steps.",
    "Emoji \U0001f600\U0001f469‍\U0001f680, 日本語 and accents é à ü all pass through bytes.",
]

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write_tokenizer(folder: Path) -> int:
    """Train a small byte-level BPE tokenizer into `folder`; returns its vocabulary size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token="<|endoftext|>",
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(str(folder))
    return int(tokenizer.get_vocab_size())


def write_tiny(
    folder: Path,
    *,
    arch: str = "qwen2",
    tied: bool = False,
    hidden: int = 256,
    intermediate: int = 512,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    max_position: int = 512,
    rope_theta: float = 1_000_000.0,
    rope_scaling: dict[str, Any] | None = None,
    dtype: str = "float32",
    seed: int = 0,
) -> Path:
    """Write a random `arch` ("qwen2" or "llama") checkpoint with its tokenizer into `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    config_class, model_class = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[arch]
    config = config_class(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=512,
        max_position_embeddings=max_position,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
        initializer_range=0.08,
        eos_token_id=2,
        bos_token_id=0,
        pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta, **(rope_scaling or {})},
    )
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = model_class(config).to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.5)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    torch.random.set_rng_state(generator_state)
    model.generation_config.eos_token_id = [2, 0]
    model.generation_config.pad_token_id = 0
    model.save_pretrained(str(folder), safe_serialization=True)
    config_file = folder / "config.json"
    data = json.loads(config_file.read_text())
    data["rope_theta"] = rope_theta
    config_file.write_text(json.dumps(data, indent=2, sort_keys=True))
    return folder
