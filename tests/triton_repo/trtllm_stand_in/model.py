"""Stands in for TensorRT-LLM's C++ model in Triton: the same tensors, an ONNX engine behind them.

As upstream's backend does: `stop` ends the running requests of its id and is answered by an empty response;
the end token is not sent, a stop word is; the last response carries output_ids and FINAL; an error carries
FINAL. What upstream refuses is refused. Some seeds make it fail in a way of their own (see `Trouble`).
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from enginewright_onnx.runtime import Engine, GenerationRequest, SamplingParams
from triton_repo.trtllm_stand_in.trouble import Trouble
from triton_repo.trtllm_stand_in.word_lists import read_words

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Exports `stand_in_running` and `stand_in_requests_total`, by model."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._engine = Engine.open(Path(parameters["gpt_model_path"]), threads=1)
        self._running: dict[str, list[_Running]] = {}
        self._hanging: list[Any] = []
        self._lock = threading.Lock()
        self._families: list[Any] = []
        labels = {"model": args["model_name"]}
        self._gauge = self._metric("stand_in_running", pb_utils.MetricFamily.GAUGE, labels)
        self._counter = self._metric("stand_in_requests_total", pb_utils.MetricFamily.COUNTER, labels)

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._take(request, sender)
            except Exception as error:
                _send_error(sender, str(error))

    def finalize(self) -> None:
        for sender in self._hanging:
            sender.send(flags=FINAL)
        self._engine.close()

    def ended(self, request_id: str, running: _Running) -> None:
        with self._lock:
            self._running[request_id].remove(running)
            self._gauge.set(sum(map(len, self._running.values())))

    def _metric(self, name: str, kind: Any, labels: dict[str, str]) -> Any:
        self._families.append(pb_utils.MetricFamily(name=name, description=name, kind=kind))
        return self._families[-1].Metric(labels=labels)

    def _take(self, request: Any, sender: Any) -> None:
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        request_id = request.request_id()
        if given.get("stop", np.zeros(1, np.bool_)).reshape(-1)[0]:
            with self._lock:
                found = list(self._running.get(request_id, ()))
            for running in found:
                running.stop()
            sender.send(pb_utils.InferenceResponse([]), flags=FINAL)
            return
        self._counter.increment(1)
        if not {"output_ids", "sequence_length"} <= set(request.requested_output_names()):
            raise ValueError("output_ids and sequence_length must be present in list of output tensors")
        trouble = Trouble.of(given)
        if trouble is Trouble.FIRST_ERROR:
            raise ValueError("the executor is out of blocks")
        if trouble is Trouble.HANGS:
            self._hanging.append(sender)
            return
        running = _Running(self, request_id, sender, given, trouble)
        with self._lock:
            self._running.setdefault(request_id, []).append(running)
            self._gauge.set(sum(map(len, self._running.values())))
        try:
            running.start(self._engine)
        except Exception:
            self.ended(request_id, running)
            raise


class _Running:
    """One request: events of the engine out through its sender."""

    def __init__(
        self, model: TritonPythonModel, request_id: str, sender: Any, given: dict[str, Any], trouble: Trouble
    ) -> None:
        self._model = model
        self._request_id = request_id
        self._sender = sender
        self._given = given
        self._trouble = trouble
        self._handle: Any = None
        self._sent = 0

    def start(self, engine: Engine) -> None:
        given = self._given
        ids = given["input_ids"].reshape(-1)
        if _scalar(given, "input_lengths") != len(ids):
            raise ValueError("input_lengths is not the length of input_ids")
        if not (_scalar(given, "streaming") and _scalar(given, "exclude_input_in_output")):
            raise ValueError("this stand-in streams, and never sends the prompt")
        self._end_id = _scalar(given, "end_id", -1)
        self._handle = engine.submit(
            GenerationRequest(self._request_id, tuple(ids.tolist()), self._sampling()), self._on_event
        )

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _sampling(self) -> SamplingParams:
        given = self._given
        top_k, temperature = _scalar(given, "runtime_top_k", 0), _scalar(given, "temperature", 1.0)
        if temperature <= 0 or top_k < 0 or top_k > 1024:
            raise ValueError(f"temperature {temperature}, top_k {top_k}")
        stops = [word for word in read_words(given.get("stop_words_list")) if len(word) == 1]
        end = () if self._end_id < 0 else (self._end_id,)
        return SamplingParams(
            max_tokens=_scalar(given, "request_output_len"),
            temperature=0.0 if top_k == 1 else temperature,
            top_k=top_k,
            top_p=_scalar(given, "runtime_top_p", 1.0),
            repetition_penalty=_scalar(given, "repetition_penalty", 1.0),
            presence_penalty=_scalar(given, "presence_penalty", 0.0),
            frequency_penalty=_scalar(given, "frequency_penalty", 0.0),
            min_tokens=_scalar(given, "min_tokens", 0),
            seed=_scalar(given, "seed", 0),
            stop_token_ids=(*end, *(word[0] for word in stops)),
            bad_token_sequences=tuple(read_words(given.get("bad_words_list"))),
            logprobs=bool(_scalar(given, "return_log_probs", False)),
        )

    def _on_event(self, event: Any) -> None:
        ids, logprobs, final = event.token_ids, event.logprobs, event.finish_reason is not None
        if final:
            self._model.ended(self._request_id, self)
        if event.finish_reason == "stop" and ids[-1] == self._end_id:
            ids, logprobs = ids[:-1], None if logprobs is None else logprobs[:-1]
        if self._sent >= 3 and self._trouble is not Trouble.NONE:
            self._make_trouble()
            return
        self._sent += len(ids)
        outputs = [
            pb_utils.Tensor("output_ids", np.array([[ids]], dtype=np.int32).reshape(1, 1, -1)),
            pb_utils.Tensor("sequence_length", np.array([[len(ids)]], dtype=np.int32)),
        ]
        if logprobs is not None:
            array = np.array([[logprobs]], dtype=np.float32).reshape(1, 1, -1)
            outputs.append(pb_utils.Tensor("output_log_probs", array))
        self._sender.send(pb_utils.InferenceResponse(outputs), flags=FINAL if final else 0)

    def _make_trouble(self) -> None:
        trouble, self._trouble = self._trouble, Trouble.SILENT
        if trouble is Trouble.LATE_ERROR:
            _send_error(self._sender, "the executor lost a rank")
        elif trouble is Trouble.BREAKS_OFF:
            self._sender.send(flags=FINAL)
        if self._handle is not None:
            self._handle.cancel()


def _scalar(given: dict[str, Any], name: str, default: Any = None) -> Any:
    if name not in given:
        if default is None:
            raise ValueError(f"{name} is missing")
        return default
    return given[name].reshape(-1)[0].item()


def _send_error(sender: Any, message: str) -> None:
    error = pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL)
    sender.send(pb_utils.InferenceResponse([], error=error), flags=FINAL)
