"""One real inference, to find out whether a server works: readiness goes on saying yes after a model died."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any, Literal

from enginewright_serve.access import TOKEN_HEADER, Access, served_name

__all__ = ["Probe", "ProbeResult"]

_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
_CODE = re.compile(r"\[([a-z0-9-]+)\]$")
_BUSY = {"queue-full", "shutting-down"}

Outcome = Literal["works", "busy", "stalled", "fails", "silent", "unreachable"]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """works: a token came. busy: the front refused it for its load. stalled: the front says that the engine
    made no step for too long. fails: an error instead of a token. silent: nothing in time. unreachable: no
    connection. message: what the server said."""

    outcome: Outcome
    message: str = ""


class Probe:
    """Asks `model` at `address` for one token. request_id: by which the front knows it as no user's."""

    def __init__(self, address: str, access: Access, *, model: str, request_id: str) -> None:
        import grpc
        from tritonclient.grpc import service_pb2 as pb

        self._request = pb.ModelInferRequest(model_name=model, id=request_id)
        for name, datatype, content in (
            ("text_input", "BYTES", struct.pack("<I", 5) + b"Hello"),
            ("max_tokens", "INT32", struct.pack("<i", 1)),
            ("temperature", "FP32", struct.pack("<f", 0.0)),
        ):
            self._request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
            self._request.raw_input_contents.append(content)
        self._metadata = [(TOKEN_HEADER, access.token)] if access.token else None
        self._channel = _open(address, access)
        self._ask = self._channel.unary_stream(
            _METHOD,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        self._error: type[Exception] = grpc.RpcError

    def ask(self, seconds: float) -> ProbeResult:
        """What comes within `seconds`; after that the request is cancelled."""
        call = self._ask(self._request, timeout=seconds, metadata=self._metadata)
        message = ""
        try:
            for response in call:  # to the end: a call that is reset after an error can crash Triton 2.51
                message = message or response.error_message
        except self._error as error:
            return _lost(error)
        except ValueError as error:  # the channel was closed
            return ProbeResult("unreachable", str(error))
        return _judge(message) if message else ProbeResult("works")

    def close(self) -> None:
        """Cancel what runs; a probe that is waiting ends at once."""
        self._channel.close()


def _open(address: str, access: Access) -> Any:
    import grpc

    options: list[tuple[str, Any]] = [
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    if access.certificate is None or access.key is None:
        return grpc.insecure_channel(address, options)
    certificate, key = access.certificate.read_bytes(), access.key.read_bytes()
    own = (key, certificate) if access.client_ca else (None, None)
    # The server is asked at its own address, not by the name that its certificate is for.
    options.append(("grpc.ssl_target_name_override", served_name(access)))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(certificate, *own), options)


def _lost(error: Any) -> ProbeResult:
    import grpc

    status, details = error.code(), error.details() or ""
    if status in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return ProbeResult("silent", details)
    if status is grpc.StatusCode.UNAVAILABLE and not _CODE.search(details):
        return ProbeResult("unreachable", details)
    return _judge(details)


def _judge(message: str) -> ProbeResult:
    found = _CODE.search(message)
    code = found[1] if found else ""
    if code in _BUSY:
        return ProbeResult("busy", message)
    return ProbeResult("stalled" if code == "engine-stalled" else "fails", message)
