"""The decoder graph: token ids and KV buffers in, logits and updated KV buffers out.

Inputs  `input_ids`, `position_ids` int64 [B, S]; `seqlens_k` int32 [B], total length - 1;
        `total_sequence_length` int32 []; `logits_rows` int64 [N], flat indices b * S + s, N = 0 allowed;
        `past_key.{i}`, `past_value.{i}` float32 [B, kv_heads, capacity, head_dim].
Outputs `logits` float32 [N, vocab]; `present_key.{i}`, `present_value.{i}`, which may be the past's buffers.

position_ids are rows of the cos/sin tables, so a request chooses its rope region. B >= 1, S >= 1, and S > 1
over a past needs B = 1. Operators: ONNX Runtime's ContribOperators.md; the graph was run on 1.23 and 1.32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from enginewright_model import ModelSpec
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from enginewright_onnx.decoder_weights import DecoderWeights, LayerWeights
from enginewright_onnx.graph_builder import MICROSOFT, GraphBuilder
from enginewright_onnx.linear import emit_linear, format_of
from enginewright_onnx.linear_weights import LinearWeight
from enginewright_onnx.options import EngineOptions

__all__ = ["build_decoder_graph"]

Float32 = npt.NDArray[np.float32]


def build_decoder_graph(
    graph: GraphBuilder,
    spec: ModelSpec,
    weights: DecoderWeights,
    tables: tuple[Float32, Float32],
    options: EngineOptions,
) -> ModelProto:
    """Write all weights through `graph` and return the model.

    tables: cos and sin, float32 [rows, head_dim / 2]. Raises CheckpointError for a weight that is not finite.
    """
    return _Decoder(graph, spec, weights, options).build(tables)


@dataclass(frozen=True, slots=True)
class _Decoder:
    graph: GraphBuilder
    spec: ModelSpec
    weights: DecoderWeights
    options: EngineOptions

    def build(self, tables: tuple[Float32, Float32]) -> ModelProto:
        for name, table in zip(("rope.cos", "rope.sin"), tables, strict=True):
            self.graph.constant(name, table)
        residual = self._embed()
        hidden = self._first_norm(residual)
        last = self.spec.num_layers - 1
        for index, layer in enumerate(self.weights.layers):
            name = f"layers.{index}"
            attended = self._attention(name, index, layer, hidden)
            if index == last:
                # From here on only the rows whose logits are wanted: a prefill skips the last MLP, which is
                # 3% of its time in a model of 30 layers.
                attended = self._rows(f"{name}.attended_rows", attended, self.spec.query_size)
                residual = self._rows(f"{name}.residual_rows", residual, self.spec.hidden_size)
            projected = self._project(f"{name}.o_proj", attended, layer.output)
            hidden, residual = self._skip_norm(f"{name}.post_norm", projected, residual, layer.post_norm)
            output = self._mlp(name, layer, hidden)
            if index == last:
                hidden, _ = self._skip_norm("final_norm", output, residual, self.weights.final_norm)
            else:
                following = self.weights.layers[index + 1].input_norm
                hidden, residual = self._skip_norm(
                    f"layers.{index + 1}.input_norm", output, residual, following
                )
        self._head(hidden)
        return self.graph.model("decoder", self._inputs(), self._outputs())

    def _embed(self) -> str:
        table = self.weights.embedding
        # In the checkpoint's own type: a bfloat16 table is half the bytes, and only gathered rows are cast.
        dtype = table.dtype
        rows = (table.dense(start, stop).astype(dtype) for start, stop in table.slices())
        name = self.graph.stream("embed_tokens", dtype, (table.rows, table.columns), rows)
        if dtype == np.float32:
            return self.graph.node("Gather", (name, "input_ids"), "embedding", axis=0)
        gathered = self.graph.node("Gather", (name, "input_ids"), "embedding.narrow", axis=0)
        return self.graph.node("Cast", (gathered,), "embedding", to=TensorProto.FLOAT)

    def _attention(self, name: str, index: int, layer: LayerWeights, hidden: str) -> str:
        # One packed projection: three apart measured the same and make a longer graph.
        packed = self._project(f"{name}.qkv", hidden, *layer.qkv)
        past = (f"past_key.{index}", f"past_value.{index}")
        lengths = ("seqlens_k", "total_sequence_length")
        return self.graph.node(
            "GroupQueryAttention",
            (packed, "", "", *past, *lengths, "rope.cos", "rope.sin", "position_ids"),
            (f"{name}.attended", f"present_key.{index}", f"present_value.{index}"),
            domain=MICROSOFT,
            num_heads=self.spec.num_heads,
            kv_num_heads=self.spec.num_kv_heads,
            do_rotary=1,
            rotary_interleaved=0,
        )

    def _mlp(self, name: str, layer: LayerWeights, hidden: str) -> str:
        gate = self._project(f"{name}.gate_proj", hidden, layer.gate)
        up = self._project(f"{name}.up_proj", hidden, layer.up)
        # QuickGelu with alpha 1 is SiLU; Sigmoid and Mul apart measured the same.
        activated = self.graph.node("QuickGelu", (gate,), f"{name}.silu", domain=MICROSOFT, alpha=1.0)
        product = self.graph.node("Mul", (activated, up), f"{name}.gated")
        return self._project(f"{name}.down_proj", product, layer.down)

    def _project(self, name: str, hidden: str, *weights: LinearWeight) -> str:
        form = format_of(weights[0], dense="fp32", fp8=self.options.fp8_compute)
        level = self.options.accuracy_level
        return emit_linear(self.graph, hidden, name, weights, form, accuracy_level=level)

    def _rows(self, name: str, tensor: str, width: int) -> str:
        shape = self.graph.constant(f"{name}.shape", np.array([-1, width], np.int64))
        flat = self.graph.node("Reshape", (tensor, shape), f"{name}.flat")
        return self.graph.node("Gather", (flat, "logits_rows"), name, axis=0)

    def _first_norm(self, residual: str) -> str:
        gamma = self.graph.constant("layers.0.input_norm.weight", self.weights.layers[0].input_norm)
        return self.graph.node(
            "SimplifiedLayerNormalization",
            (residual, gamma),
            "layers.0.input_norm",
            epsilon=self.spec.rms_norm_eps,
            axis=-1,
            stash_type=1,
        )

    def _skip_norm(self, name: str, addition: str, residual: str, weight: Float32) -> tuple[str, str]:
        """The RMS norm of residual + addition, and that sum."""
        # An Add and a SimplifiedLayerNormalization apart measured the same and double the nodes.
        gamma = self.graph.constant(f"{name}.weight", weight)
        total = f"{name}.sum"
        self.graph.node(
            "SkipSimplifiedLayerNormalization",
            (residual, addition, gamma),
            (name, "", "", total),
            domain=MICROSOFT,
            epsilon=self.spec.rms_norm_eps,
        )
        return name, total

    def _head(self, hidden: str) -> None:
        head, options = self.weights.lm_head, self.options
        form = format_of(head, dense=options.lm_head, fp8=options.fp8_compute)
        if form.bits is None and self.spec.tie_word_embeddings:
            # One table on disk. ONNX Runtime casts a narrow one once, while it loads.
            table = "embed_tokens"
            if head.dtype != np.float32:
                table = self.graph.node("Cast", (table,), "lm_head.weight", to=TensorProto.FLOAT)
            self.graph.node("FusedMatMul", (hidden, table), "logits", domain=MICROSOFT, transB=1)
            return
        emit_linear(self.graph, hidden, "logits", (head,), form, accuracy_level=options.accuracy_level)

    def _inputs(self) -> list[ValueInfoProto]:
        rows = ["batch", "sequence"]
        return [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, rows),
            helper.make_tensor_value_info("position_ids", TensorProto.INT64, rows),
            helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, ["batch"]),
            helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []),
            helper.make_tensor_value_info("logits_rows", TensorProto.INT64, ["logits_rows"]),
            *self._caches("past"),
        ]

    def _outputs(self) -> list[ValueInfoProto]:
        shape = ["logits_rows", self.spec.vocab_size]
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
        return [logits, *self._caches("present")]

    def _caches(self, time: str) -> list[ValueInfoProto]:
        shape = ["batch", self.spec.num_kv_heads, "capacity", self.spec.head_dim]
        return [
            helper.make_tensor_value_info(f"{time}_{part}.{index}", TensorProto.FLOAT, shape)
            for index in range(self.spec.num_layers)
            for part in ("key", "value")
        ]
