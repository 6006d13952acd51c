"""The client of Enginewright's wire contract and of other text models on Triton: prompts in, text out.

    from enginewright_client import SamplingParams, TritonClient

    with TritonClient("127.0.0.1:8001") as client:
        question = [{"role": "user", "content": "Name three rivers."}]
        answer = client.chat(question, SamplingParams(max_tokens=2048))
        print(answer.content, answer.usage)

Everything that goes wrong is a `RequestError`:

* RequestError
  x ConnectError          no server there, or the connection was lost
    + TLSError            it is there, but is not to be trusted
  x RequestTimeout        the time that was given is over; the server frees the request's slot
  x RequestCancelled      the request was cancelled, here or by the server
  x InvalidRequest        the request cannot be right; `field` is what to change
    + AccessDenied        the server wants a token, or another
    + ModelNotFound       the server does not serve a model of that name
    + UnsupportedModel    it does, but the model takes no text or gives none
  x ServerOverloaded      the queue is full, the engine is stalled or shutting down: try again later
  x EngineError           the model failed while it ran the request

Needs numpy, grpcio, protobuf and tritonclient alone.
"""

from __future__ import annotations

from enginewright_client._async_chat_stream import AsyncChatStream
from enginewright_client._async_client import AsyncTritonClient
from enginewright_client._async_stream import AsyncCompletionStream
from enginewright_client._chat_stream import ChatStream
from enginewright_client._client import TritonClient
from enginewright_client._client_base import DEFAULT_ADDRESS
from enginewright_client._exceptions import (
    AccessDenied,
    ConnectError,
    EngineError,
    GreedyReasoningWarning,
    InsecureChannelWarning,
    InvalidRequest,
    ModelNotFound,
    RequestCancelled,
    RequestError,
    RequestTimeout,
    ServerOverloaded,
    TLSError,
    UnsupportedModel,
)
from enginewright_client._metrics import Metrics, Sample
from enginewright_client._mock_transport import MockRequest, MockTransport
from enginewright_client._models import (
    ChatCompletion,
    ChatDelta,
    Completion,
    Delta,
    FinishReason,
    Health,
    Message,
    ModelConfig,
    ModelInfo,
    Prompt,
    SamplingParams,
    TensorSpec,
    Usage,
)
from enginewright_client._options import TLS, Keepalive, Retry, Timeout
from enginewright_client._stream import CompletionStream
from enginewright_client._transport import AsyncCall, AsyncTransport, Call, Transport, TransportError

__all__ = [
    "DEFAULT_ADDRESS",
    "TLS",
    "AccessDenied",
    "AsyncCall",
    "AsyncChatStream",
    "AsyncCompletionStream",
    "AsyncTransport",
    "AsyncTritonClient",
    "Call",
    "ChatCompletion",
    "ChatDelta",
    "ChatStream",
    "Completion",
    "CompletionStream",
    "ConnectError",
    "Delta",
    "EngineError",
    "FinishReason",
    "GreedyReasoningWarning",
    "Health",
    "InsecureChannelWarning",
    "InvalidRequest",
    "Keepalive",
    "Message",
    "Metrics",
    "MockRequest",
    "MockTransport",
    "ModelConfig",
    "ModelInfo",
    "ModelNotFound",
    "Prompt",
    "RequestCancelled",
    "RequestError",
    "RequestTimeout",
    "Retry",
    "Sample",
    "SamplingParams",
    "ServerOverloaded",
    "TLSError",
    "TensorSpec",
    "Timeout",
    "Transport",
    "TransportError",
    "TritonClient",
    "UnsupportedModel",
    "Usage",
]
