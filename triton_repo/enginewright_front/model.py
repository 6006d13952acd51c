"""The class that Triton loads for `llm`: `execute` returns at once, its own threads answer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from enginewright_errors import CheckpointError, EnginewrightError

from enginewright_front.backend import EngineBackend
from enginewright_front.bls_backend import BlsBackend
from enginewright_front.detokenizer import TokenTable
from enginewright_front.dispatcher import Dispatcher
from enginewright_front.front_config import FrontConfig, read_front_config
from enginewright_front.metrics import Metrics
from enginewright_front.onnx_backend import OnnxBackend
from enginewright_front.preparation import Preparation
from enginewright_front.prompt import PromptEncoder
from enginewright_front.refusal import wire_message
from enginewright_front.serve_settings import read_serve_settings
from enginewright_front.triton_sink import TritonSink

# Python's 5 ms is longer than a decode step of a small model, and the engine's thread would wait for it.
_SWITCH_SECONDS = 0.0005


class TritonPythonModel:
    """Text in, text out. A subclass may bring another engine by overriding `open_backend`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load what lies beside model.py. Raises TritonModelException with one line: what is wrong."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        settings = read_serve_settings(os.environ)
        folder = Path(args["model_repository"]) / args["model_version"]
        try:
            config = read_front_config(folder / "front.json")
            encoder = PromptEncoder(folder / config.checkpoint)
            table = TokenTable(encoder.tokenizer)
            backend = self.open_backend(folder, config)
        except EnginewrightError as error:
            raise pb_utils.TritonModelException(wire_message(error)) from error
        self._dispatcher = Dispatcher(
            Preparation(config, encoder, backend.limits),
            table,
            backend,
            config.limits,
            Metrics(pb_utils.MetricFamily, restarts=settings.restarts),
            pb_utils.Logger.log_error,
            settings,
        )

    def open_backend(self, folder: Path, config: FrontConfig) -> EngineBackend:
        """The engine that `front.json` names. Raises EnginewrightError when it does not load."""
        if config.backend == "onnx":
            return OnnxBackend.open(folder / config.engine, max_queue=config.limits.max_queue)
        if config.backend == "tensorrt_llm" and config.tensorrt_llm is not None:
            return BlsBackend(config.tensorrt_llm, stall_seconds=config.limits.stall_seconds)
        raise CheckpointError(
            f"front.json: backend {config.backend!r} is not known",
            code="front-backend",
            hint="package the model again with this version of enginewright",
        )

    def execute(self, requests: list[Any]) -> None:
        """Take the requests on; every answer is sent later through its own sender."""
        for request in requests:
            sink = TritonSink(request.get_response_sender())
            try:
                tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
                parameters, request_id = request.parameters(), request.request_id()
            except Exception as error:
                sink.fail(_unreadable(error))
                continue
            self._dispatcher.admit(tensors, parameters, request_id, sink)

    def finalize(self) -> None:
        """End what runs and close the engine."""
        self._dispatcher.close()


def _unreadable(error: Exception) -> EnginewrightError:
    return EnginewrightError(
        f"the request's tensors cannot be read: {error}", code="invalid-request", hint="send them as declared"
    )
