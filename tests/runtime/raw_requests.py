"""Requests to `llm` without the client: for callers that behave as it never does."""

from __future__ import annotations

import struct
from typing import Any

from tritonclient.grpc import service_pb2 as pb

__all__ = ["cancellation", "stream_request"]


def stream_request(prompt: str, tokens: int) -> Any:
    request = pb.ModelInferRequest(model_name="llm")
    for name, datatype, content in (
        ("text_input", "BYTES", struct.pack("<I", len(prompt)) + prompt.encode()),
        ("stream", "BOOL", b"\1"),
        ("max_tokens", "INT32", struct.pack("<i", tokens)),
        ("min_tokens", "INT32", struct.pack("<i", tokens)),
    ):
        request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        request.raw_input_contents.append(content)
    return request


def cancellation(request_id: str) -> Any:
    """The model answers it at once, without its engine."""
    request = pb.ModelInferRequest(model_name="llm", id=request_id)
    request.inputs.add(name="cancel", datatype="BOOL", shape=[1, 1])
    request.raw_input_contents.append(b"\1")
    return request
