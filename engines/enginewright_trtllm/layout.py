"""The one table: which Hugging Face tensors become which TensorRT-LLM tensor, how split, in which dtype.

Layout observed by running upstream's loader over checkpoints of it (quantization none, FP8, FP8 with FP8 KV
and W4A16_AWQ; tp 1, 2, 4, 8). With N a layer's index within its pipeline stage:

    transformer.vocab_embedding, lm_head      rows split, padded with zero rows to a multiple of tp
    transformer.layers.N.attention.qkv        q, k, v each split on rows, then concatenated
    transformer.layers.N.attention.dense      o_proj, columns split
    transformer.layers.N.mlp.{fc,gate}        gate_proj and up_proj (in this order), rows split
    transformer.layers.N.mlp.proj             down_proj, columns split
    norms                                     on every rank

FP8 has one weight and one activation scale a linear, equal on all ranks; AWQ's [out, in/g] scales split as
their weights do. Shapes of AWQ weights are in bytes: [out/2, in], low nibble = even row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from enginewright_model import ModelSpec

from enginewright_trtllm.parallel import Parallel
from enginewright_trtllm.quantization import Quantization
from enginewright_trtllm.shard import Rule

__all__ = ["Entry", "Source", "padded_vocab", "stage_entries"]


@dataclass(frozen=True, slots=True)
class Source:
    """A whole tensor of the unified Hugging Face checkpoint."""

    name: str
    shape: tuple[int, ...]
    dtypes: tuple[str, ...]  # safetensors codes that are accepted
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a rank file: same name, shape and dtype on all tensor-parallel ranks of its stage."""

    name: str
    dtype: str  # safetensors code
    shape: tuple[int, ...]  # on one rank
    rule: Rule
    sources: tuple[Source, ...]
    scales: tuple[str, ...] = ()  # FP8 weights: the weight scales that are merged into this tensor's one

    def rows_each(self, source: Source, tp: int) -> int:
        """Rows of `source` that a rank holds under Rule.ROWS; counts the zero rows that pad a vocabulary."""
        return self.shape[0] if len(self.sources) == 1 else source.shape[0] // tp


@dataclass(frozen=True, slots=True)
class _Linear:
    """One TensorRT-LLM linear: the projections it is made of, side by side on their rows."""

    name: str
    parts: tuple[str, ...]  # Hugging Face modules
    widths: tuple[int, ...]  # rows (output features) of each part
    inputs: int  # columns (input features)
    by_rows: bool = True  # column parallel: ranks share out the rows; else the columns
    bias: bool = False
    scaled_with: tuple[str, ...] = ()  # modules that have one FP8 scale together; empty: the parts


_FLOAT = ("BF16", "F16", "F32")


def padded_vocab(model: ModelSpec, quantization: Quantization) -> int:
    """`vocab_size` of the TensorRT-LLM config: ModelOpt pads AWQ models to a multiple of 64, others not."""
    if quantization.format != "int4_awq":
        return model.vocab_size
    return -(-model.vocab_size // 64) * 64


def stage_entries(
    model: ModelSpec, quantization: Quantization, parallel: Parallel, pp_rank: int, *, tied: bool = False
) -> Iterator[Entry]:
    """The tensors of the rank files of one stage.

    `tied`: the checkpoint has no lm_head of its own. One is written all the same: upstream leaves a missing
    lm_head uninitialised and says nothing.
    """
    hidden, tp = model.hidden_size, parallel.tp
    dtype = "BF16" if model.dtype == "bfloat16" else "F16"
    rows_each = -(-padded_vocab(model, quantization) // tp)
    embedding = Source("model.embed_tokens.weight", (model.vocab_size, hidden), _FLOAT)
    head = embedding if tied else Source("lm_head.weight", (model.vocab_size, hidden), _FLOAT)

    if pp_rank == 0:
        yield Entry("transformer.vocab_embedding.weight", dtype, (rows_each, hidden), Rule.ROWS, (embedding,))
    for local, layer in enumerate(parallel.layers(pp_rank, model.num_layers)):
        to, of = f"transformer.layers.{local}", f"model.layers.{layer}"
        linears = _linears(model, to, of)
        yield _norm(f"{to}.input_layernorm.weight", f"{of}.input_layernorm.weight", hidden, dtype)
        for name in ("qkv", "dense"):
            yield from _linear(linears[name], quantization, tp, dtype)
        if quantization.kv_fp8:
            yield from _kv_scales(f"{to}.attention", f"{of}.self_attn")
        yield _norm(f"{to}.post_layernorm.weight", f"{of}.post_attention_layernorm.weight", hidden, dtype)
        for name in ("fc", "gate", "proj"):
            yield from _linear(linears[name], quantization, tp, dtype)
    if pp_rank == parallel.pp - 1:
        yield _norm("transformer.ln_f.weight", "model.norm.weight", hidden, dtype)
        yield Entry("lm_head.weight", dtype, (rows_each, hidden), Rule.ROWS, (head,))


def _norm(name: str, source: str, hidden: int, dtype: str) -> Entry:
    return Entry(name, dtype, (hidden,), Rule.WHOLE, (Source(source, (hidden,), _FLOAT),))


def _linears(model: ModelSpec, to: str, of: str) -> dict[str, _Linear]:
    """The linears of one decoder layer, by their name in it."""
    query = model.query_size
    key = model.kv_size
    hidden, inner = model.hidden_size, model.intermediate_size
    qkv = tuple(f"{of}.self_attn.{part}_proj" for part in "qkv")
    output, gate, up, down = (
        f"{of}.{part}_proj" for part in ("self_attn.o", "mlp.gate", "mlp.up", "mlp.down")
    )
    return {
        "qkv": _Linear(f"{to}.attention.qkv", qkv, (query, key, key), hidden, bias=model.qkv_bias),
        "dense": _Linear(f"{to}.attention.dense", (output,), (hidden,), query, by_rows=False),
        # Upstream's fused MLP makes one FP8 product of the two: unequal scales would be rounded again.
        "fc": _Linear(f"{to}.mlp.fc", (gate,), (inner,), hidden, scaled_with=(gate, up)),
        "gate": _Linear(f"{to}.mlp.gate", (up,), (inner,), hidden, scaled_with=(gate, up)),
        "proj": _Linear(f"{to}.mlp.proj", (down,), (hidden,), inner, by_rows=False),
    }


def _linear(linear: _Linear, quantization: Quantization, tp: int, dtype: str) -> Iterator[Entry]:
    rows, columns = sum(linear.widths), linear.inputs
    shape = (rows // tp, columns) if linear.by_rows else (rows, columns // tp)
    match quantization.format:
        case "none":
            yield _matrix(linear, "weight", dtype, shape, _parts(linear, "weight", columns, _FLOAT))
        case "fp8":
            yield from _fp8(linear, shape)
        case "int4_awq":
            yield from _awq(linear, quantization.group_size, shape, dtype)
    if linear.bias:
        biases = tuple(
            Source(f"{part}.bias", (width,), _FLOAT)
            for part, width in zip(linear.parts, linear.widths, strict=True)
        )
        yield Entry(f"{linear.name}.bias", dtype, (rows // tp,), Rule.ROWS, biases)


def _fp8(linear: _Linear, shape: tuple[int, int]) -> Iterator[Entry]:
    together = linear.scaled_with or linear.parts
    scales = tuple(f"{part}.weight_scale" for part in together)
    weights = _parts(linear, "weight", linear.inputs, ("F8_E4M3",))
    yield _matrix(linear, "weight", "F8_E4M3", shape, weights, scales)
    for name, suffix in (("weights", "weight_scale"), ("activation", "input_scale")):
        scalars = tuple(Source(f"{part}.{suffix}", (), ("F32",)) for part in together)
        yield Entry(f"{linear.name}.{name}_scaling_factor", "F32", (1,), Rule.MAXIMUM, scalars)


def _awq(linear: _Linear, group: int, shape: tuple[int, int], dtype: str) -> Iterator[Entry]:
    rows, columns = shape
    packed = _parts(linear, "weight", linear.inputs, ("U8", "I8"), pack=2)
    scales = _parts(linear, "weight_scale", linear.inputs // group, _FLOAT)
    yield _matrix(linear, "weight", "I8", (rows // 2, columns), packed)
    yield _matrix(linear, "weights_scaling_factor", "F32", (rows, columns // group), scales)
    # ModelOpt folds the pre-quantization scales of q, k, v and of gate and up into the norm before them, so
    # their tensors are absent; upstream's `pre_quant_scale: true` requires one for every linear, and ones
    # leave the folded product untouched. o_proj and down_proj bring theirs.
    prequant = tuple(
        Source(f"{part}.pre_quant_scale", (linear.inputs,), _FLOAT, optional=True) for part in linear.parts
    )
    rule = Rule.SHARED if linear.by_rows else Rule.ROWS
    yield Entry(f"{linear.name}.prequant_scaling_factor", dtype, (columns,), rule, prequant)


def _matrix(
    linear: _Linear,
    field: str,
    dtype: str,
    shape: tuple[int, int],
    sources: tuple[Source, ...],
    scales: tuple[str, ...] = (),
) -> Entry:
    rule = Rule.ROWS if linear.by_rows else Rule.COLUMNS
    return Entry(f"{linear.name}.{field}", dtype, shape, rule, sources, scales)


def _parts(
    linear: _Linear, suffix: str, columns: int, dtypes: tuple[str, ...], pack: int = 1
) -> tuple[Source, ...]:
    """The matrices of a linear's projections; `pack` output features share a row."""
    return tuple(
        Source(f"{part}.{suffix}", (width // pack, columns), dtypes)
        for part, width in zip(linear.parts, linear.widths, strict=True)
    )


def _kv_scales(to: str, of: str) -> Iterator[Entry]:
    """`kv` alone would do; k and v are there as ModelOpt writes them, and win over it when present."""
    key = Source(f"{of}.k_proj.k_scale", (), ("F32",))
    value = Source(f"{of}.v_proj.v_scale", (), ("F32",))
    for name, sources in (("k", (key,)), ("v", (value,)), ("kv", (key, value))):
        yield Entry(f"{to}.{name}_cache_scaling_factor", "F32", (1,), Rule.MAXIMUM_OF_ONE, sources)
