"""The client of Enginewright's wire contract: prompts in, text out, whatever engine is behind it.

    from enginewright_client import SamplingParams, TritonClient

    with TritonClient("127.0.0.1:8001") as client:
        question = [{"role": "user", "content": "Name three rivers."}]
        answer = client.generate(question, SamplingParams(max_tokens=64))
        print(answer.text, answer.usage.output_tokens)

Needs numpy, grpcio, protobuf and tritonclient alone.
"""

from __future__ import annotations

from enginewright_client._client import DEFAULT_ADDRESS, TritonClient
from enginewright_client._exceptions import (
    ConnectError,
    EngineError,
    InvalidRequest,
    ModelNotFound,
    RequestCancelled,
    RequestError,
    RequestTimeout,
    ServerOverloaded,
)
from enginewright_client._models import (
    Completion,
    Delta,
    FinishReason,
    Health,
    Message,
    ModelConfig,
    Prompt,
    SamplingParams,
    Usage,
)
from enginewright_client._stream import CompletionStream

__all__ = [
    "DEFAULT_ADDRESS",
    "Completion",
    "CompletionStream",
    "ConnectError",
    "Delta",
    "EngineError",
    "FinishReason",
    "Health",
    "InvalidRequest",
    "Message",
    "ModelConfig",
    "ModelNotFound",
    "Prompt",
    "RequestCancelled",
    "RequestError",
    "RequestTimeout",
    "SamplingParams",
    "ServerOverloaded",
    "TritonClient",
    "Usage",
]
