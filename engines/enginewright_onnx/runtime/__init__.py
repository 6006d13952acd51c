"""The runtime of an ONNX engine folder: in-flight batching on ONNX Runtime.

Imports only numpy, onnxruntime, enginewright_errors and the standard library, because it is copied into
the model repository. The way of a request: `engine` (thread) -> `batcher` (one step) -> `scheduler` (what
next) -> `model_session` (ONNX Runtime over `kv_pool`, whose rows `slots` hands out) -> `sampler` ->
`TokenEvent`.
"""

from __future__ import annotations

from enginewright_onnx.runtime.engine import Engine, EngineStats, QueueFull, RequestHandle
from enginewright_onnx.runtime.engine_config import ContextRegion, EngineConfig, read_engine_config
from enginewright_onnx.runtime.kv_pool import KVPool
from enginewright_onnx.runtime.model_session import ModelSession
from enginewright_onnx.runtime.request import (
    FinishReason,
    Generation,
    GenerationRequest,
    RequestTimes,
    SamplingParams,
    TokenEvent,
)
from enginewright_onnx.runtime.score import score

__all__ = [
    "ContextRegion",
    "Engine",
    "EngineConfig",
    "EngineStats",
    "FinishReason",
    "Generation",
    "GenerationRequest",
    "KVPool",
    "ModelSession",
    "QueueFull",
    "RequestHandle",
    "RequestTimes",
    "SamplingParams",
    "TokenEvent",
    "read_engine_config",
    "score",
]
