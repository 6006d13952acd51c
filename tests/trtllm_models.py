"""Unified checkpoints for the TensorRT-LLM tests, and rank files put together again.

`reassemble` knows the layout by its own words (reference: checkpoint.md), not by the product's table, so that
the two can disagree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]

# QwQ-32B's proportions, 40 query heads on 8 KV heads, as small as 8 ranks allow.
SMALL = {
    "hidden": 160,
    "intermediate": 288,
    "layers": 4,
    "heads": 40,
    "kv_heads": 8,
    "head_size": 4,
    "vocab": 320,
}
# The same where every AWQ linear has to be a multiple of 64 * 8.
SMALL_AWQ = {**SMALL, "hidden": 512, "intermediate": 512, "head_size": 64, "layers": 2}
# One layer at QwQ-32B's true dimensions, a small vocabulary.
TRUE_LAYER = {
    "hidden": 5120,
    "intermediate": 27648,
    "layers": 1,
    "heads": 40,
    "kv_heads": 8,
    "head_size": 128,
    "vocab": 1024,
}


def write_unified(
    folder: Path,
    *,
    quantization: str = "none",
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_size: int,
    vocab: int,
    group: int = 64,
    family: str = "qwen2",
    dtype: str = "bfloat16",
    tied: bool = False,
    seed: int = 0,
    **config: Any,
) -> Tensors:
    """Write a checkpoint of random bytes as ModelOpt 0.47 would name them; returns its tensors.

    quantization: none, fp8, fp8kv or int4_awq. The scales of q, k, v and of gate, up are equal, as after a
    fusion.
    """
    generator = torch.Generator().manual_seed(seed)
    float_type = getattr(torch, dtype)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(float_type)

    def raw(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    def scale(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator) + 0.01

    tensors = {"model.embed_tokens.weight": random(vocab, hidden), "model.norm.weight": random(hidden)}
    if not tied:
        tensors["lm_head.weight"] = random(vocab, hidden)
    query, key = heads * head_size, kv_heads * head_size
    for layer in range(layers):
        of = f"model.layers.{layer}"
        tensors[f"{of}.input_layernorm.weight"] = random(hidden)
        tensors[f"{of}.post_attention_layernorm.weight"] = random(hidden)
        widths = {
            "self_attn.q_proj": (query, hidden),
            "self_attn.k_proj": (key, hidden),
            "self_attn.v_proj": (key, hidden),
            "self_attn.o_proj": (hidden, query),
            "mlp.gate_proj": (intermediate, hidden),
            "mlp.up_proj": (intermediate, hidden),
            "mlp.down_proj": (hidden, intermediate),
        }
        shared = {block: (scale(), scale()) for block in ("self_attn", "mlp")}
        for name, (rows, columns) in widths.items():
            at = f"{of}.{name}"
            if name[-6:] in ("q_proj", "k_proj", "v_proj") and family == "qwen2":
                tensors[f"{at}.bias"] = random(rows)
            if quantization == "none":
                tensors[f"{at}.weight"] = random(rows, columns)
            elif quantization.startswith("fp8"):
                own = name.endswith(("o_proj", "down_proj"))
                pair = (scale(), scale()) if own else shared[name.split(".")[0]]
                tensors[f"{at}.weight"] = raw(rows, columns).view(torch.float8_e4m3fn)
                tensors[f"{at}.weight_scale"], tensors[f"{at}.input_scale"] = (one.clone() for one in pair)
            else:
                tensors[f"{at}.weight"] = raw(rows // 2, columns)
                tensors[f"{at}.weight_scale"] = scale(rows, columns // group)
                if name.endswith(("o_proj", "down_proj")):
                    tensors[f"{at}.pre_quant_scale"] = random(columns).abs()
        if quantization == "fp8kv":
            tensors[f"{of}.self_attn.k_proj.k_scale"] = torch.tensor(0.02)
            tensors[f"{of}.self_attn.v_proj.v_scale"] = torch.tensor(1.5)

    save(folder, tensors)
    data = {
        "architectures": ["Qwen2ForCausalLM" if family == "qwen2" else "LlamaForCausalLM"],
        "model_type": family,
        "dtype": dtype,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_size,
        "vocab_size": vocab,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "rope_theta": 1e6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": tied,
        "use_sliding_window": False,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(data))
    if quantization != "none":
        write_quant_config(folder, quantization, group)
    return tensors


def save(folder: Path, tensors: Tensors) -> None:
    """(Re)write a folder's model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def write_quant_config(folder: Path, quantization: str, group: int = 64, **changes: Any) -> None:
    """hf_quant_config.json as ModelOpt 0.47 writes it; `changes` replace keys of its `quantization`."""
    block: dict[str, Any] = {"quant_algo": "FP8", "kv_cache_quant_algo": None}
    if quantization == "fp8kv":
        block["kv_cache_quant_algo"] = "FP8"
    if quantization == "int4_awq":
        block |= {"quant_algo": "W4A16_AWQ", "group_size": group, "has_zero_point": False}
        block |= {"pre_quant_scale": True}
    block |= {"exclude_modules": ["lm_head", "model.embed_tokens"], **changes}
    text = json.dumps({"producer": {"name": "modelopt", "version": "0.47.0"}, "quantization": block})
    (folder / "hf_quant_config.json").write_text(text)


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal shape and bytes, whatever the dtypes are called."""
    return a.shape == b.shape and torch.equal(
        a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)
    )


class Ranks:
    """The tensor-parallel rank files of one pipeline stage."""

    def __init__(self, files: list[Path]) -> None:
        self.files = [load_file(file) for file in files]

    def __contains__(self, name: str) -> bool:
        return name in self.files[0]

    def everywhere(self, name: str) -> torch.Tensor:
        """A tensor that has to be the same on all ranks."""
        tensors = [file[name] for file in self.files]
        assert all(same_bytes(tensors[0], tensor) for tensor in tensors), name
        return tensors[0]

    def joined(self, name: str, dim: int) -> torch.Tensor:
        tensors = [file[name] for file in self.files]
        return torch.cat([_bytes(tensor) for tensor in tensors], dim).view(tensors[0].dtype)

    def unmerged(self, name: str, rows: list[int]) -> list[torch.Tensor]:
        """q, k and v of a merged tensor: each rank holds `rows` of each."""
        parts = [_bytes(file[name]).split(rows) for file in self.files]
        return [torch.cat(part).view(self.files[0][name].dtype) for part in zip(*parts, strict=True)]


def reassemble(folder: Path) -> Tensors:
    """The whole tensors of a TensorRT-LLM checkpoint, under their Hugging Face names; padding rows included.

    Checks on the way that what has to be equal on all ranks is. The KV cache's scales stay out.
    """
    config = json.loads((folder / "config.json").read_text())
    tp, pp = config["mapping"]["tp_size"], config["mapping"]["pp_size"]
    heads = [config["num_attention_heads"], *[config["num_key_value_heads"]] * 2]
    rows = [count // tp * config["head_size"] for count in heads]
    per_stage = config["num_hidden_layers"] // pp
    whole: Tensors = {}
    for stage in range(pp):
        ranks = Ranks([folder / f"rank{stage * tp + rank}.safetensors" for rank in range(tp)])
        if stage == 0:
            whole["model.embed_tokens.weight"] = ranks.joined("transformer.vocab_embedding.weight", 0)
        if stage == pp - 1:
            whole["lm_head.weight"] = ranks.joined("lm_head.weight", 0)
            whole["model.norm.weight"] = ranks.everywhere("transformer.ln_f.weight")
        for local in range(per_stage):
            layer = _layer(ranks, f"transformer.layers.{local}.", rows)
            of = f"model.layers.{stage * per_stage + local}."
            whole |= {of + name: tensor for name, tensor in layer.items()}
    return whole


MODULES = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.dense": ("self_attn.o_proj",),
    "mlp.fc": ("mlp.gate_proj",),
    "mlp.gate": ("mlp.up_proj",),
    "mlp.proj": ("mlp.down_proj",),
}


def _layer(ranks: Ranks, at: str, rows: list[int]) -> Tensors:
    qkv = MODULES["attention.qkv"]
    awq = ranks.files[0][at + "attention.qkv.weight"].dtype == torch.int8
    packed = [count // 2 for count in rows] if awq else rows
    out = {
        "input_layernorm.weight": ranks.everywhere(at + "input_layernorm.weight"),
        "post_attention_layernorm.weight": ranks.everywhere(at + "post_layernorm.weight"),
    }
    for name, parts in MODULES.items():
        by_rows = name not in ("attention.dense", "mlp.proj")
        for field, suffix, height in (
            ("weight", "weight", packed),
            ("weights_scaling_factor", "weight_scale", rows),
        ):
            tensor = f"{at}{name}.{field}"
            if tensor not in ranks:
                continue
            if field != "weight" and not awq:
                out |= {f"{part}.{suffix}": ranks.everywhere(tensor).squeeze() for part in parts}
            elif parts == qkv:
                split = ranks.unmerged(tensor, height)
                out |= {f"{part}.{suffix}": one for part, one in zip(parts, split, strict=True)}
            else:
                out[f"{parts[0]}.{suffix}"] = ranks.joined(tensor, 0 if by_rows else 1)
        if f"{at}{name}.activation_scaling_factor" in ranks:
            scale = ranks.everywhere(f"{at}{name}.activation_scaling_factor").squeeze()
            out |= {f"{part}.input_scale": scale for part in parts}
        if f"{at}{name}.prequant_scaling_factor" in ranks:
            if by_rows:  # folded into the norm before it
                assert (ranks.everywhere(f"{at}{name}.prequant_scaling_factor") == 1).all()
            else:
                out[f"{parts[0]}.pre_quant_scale"] = ranks.joined(f"{at}{name}.prequant_scaling_factor", 0)
    if at + "attention.qkv.bias" in ranks:
        biases = ranks.unmerged(at + "attention.qkv.bias", rows)
        out |= {f"{part}.bias": bias for part, bias in zip(qkv, biases, strict=True)}
    return out


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """torch neither concatenates nor splits float8."""
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor
