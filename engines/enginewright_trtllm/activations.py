"""Device memory of one rank beside weights and KV cache.

TensorRT reserves one block for the widest moment of a step of max_num_tokens: the MLP's gate, up and product,
the packed qkv and four hidden states, in BF16. Sampling keeps some float32 rows of the vocabulary per
sequence. The constant is what GEMM and attention workspaces take; with it QwQ-32B at 8,192 tokens needs the
2.5 GB that were measured for its geometry.
"""

from __future__ import annotations

from enginewright_model import ModelSpec

from enginewright_trtllm.target import TrtllmTarget

__all__ = ["CONTEXT_BYTES", "activation_bytes"]

# CUDA context and loaded kernels of one process on a GPU.
CONTEXT_BYTES = 400_000_000
_WORKSPACE_BYTES = 600_000_000
_HIDDEN_STATES = 4
_SAMPLING_ROWS = 8
# Two rotating buffers of the all-reduce kernels and the barrier's flags.
_ALL_REDUCE_BUFFERS = 3
_BF16 = 2
_FP32 = 4


def activation_bytes(dims: ModelSpec, target: TrtllmTarget) -> int:
    """Bytes of one rank: activations, workspaces, sampling buffers, communication buffers."""
    split = (3 * dims.intermediate_size + dims.qkv_size) / target.tp
    step = target.max_num_tokens * (split + _HIDDEN_STATES * dims.hidden_size) * _BF16
    sampling = target.max_batch_size * dims.vocab_size * _FP32 * _SAMPLING_ROWS
    communication = 0
    if target.world_size > 1:
        communication = _ALL_REDUCE_BUFFERS * target.max_num_tokens * dims.hidden_size * _BF16
    return int(step) + sampling + communication + _WORKSPACE_BYTES
