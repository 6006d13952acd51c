"""A Triton of known delays: the service's protocol, and behind it a timetable instead of a model.

A prompt has as many tokens as words. An answer is `max_tokens` times "a ": the first `first` seconds after
the request has a slot, each of the others `gap` seconds later, counted from the slot and not from the last
one, so that small delays do not add up.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from enginewright_front.pbtxt import render_configs
from google.protobuf import text_format
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

Refuse = Callable[[int], str | None]


@dataclass
class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """slots: requests that run at a time, the others wait. refuse: the error of the n-th request, if any.
    short: tokens that an answer of more than one has too few."""

    first: float = 0.0
    gap: float = 0.0
    slots: int = 1000
    context: int = 100_000
    short: int = 0
    refuse: Refuse = lambda number: None
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        text = render_configs({"max_seq_len": str(self.context)})["llm"]
        response = pb.ModelConfigResponse()
        text_format.Parse(text, response.config)
        [cancel] = [tensor for tensor in response.config.input if tensor.name == "cancel_key"]
        response.config.input.remove(cancel)  # it only knows calls that are reset
        return response

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        request = await anext(aiter(requests))
        inputs = dict(
            zip((tensor.name for tensor in request.inputs), request.raw_input_contents, strict=True)
        )
        self.asked.append(inputs)
        if (problem := self.refuse(len(self.asked) - 1)) is not None:
            yield pb.ModelStreamInferResponse(error_message=problem)
            return
        prompt = inputs.get("text_input", inputs.get("messages", b""))[4:].decode()
        tokens = max(1, struct.unpack("<i", inputs["max_tokens"])[0] - self.short)
        async with self._free:
            start = asyncio.get_running_loop().time()
            for made in range(1, tokens + 1):
                await _until(start + self.first + (made - 1) * self.gap)
                yield _response(request, made, len(prompt.split()), last=made == tokens)

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.slots)


@asynccontextmanager
async def serving(fake: FakeTriton) -> AsyncIterator[str]:
    """The address of a server with `fake` behind it."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


async def _until(time: float) -> None:
    while (rest := time - asyncio.get_running_loop().time()) > 0:
        await asyncio.sleep(rest)


def _response(request: Any, made: int, prompt: int, *, last: bool) -> Any:
    response = pb.ModelStreamInferResponse()
    answer = response.infer_response
    answer.model_name, answer.id = request.model_name, request.id
    answer.parameters["triton_final_response"].bool_param = last
    tensors = [("text_output", "BYTES", _text("a "))]
    if last:
        tensors += [
            ("finish_reason", "BYTES", _text("length")),
            ("num_input_tokens", "INT32", struct.pack("<i", prompt)),
            ("num_output_tokens", "INT32", struct.pack("<i", made)),
        ]
    for name, datatype, content in tensors:
        answer.outputs.add(name=name, datatype=datatype, shape=[1])
        answer.raw_output_contents.append(content)
    return response


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()
