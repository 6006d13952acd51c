"""TensorRT-LLM's models, in the same server, behind the front's protocol: each request is one BLS request."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

from enginewright_front.backend import EngineHandle, EngineLimits, EngineRequest, EngineStats, TokenEvent
from enginewright_front.bls_call import BlsCall, Call
from enginewright_front.bls_model import BlsModel, Line
from enginewright_front.front_config import TensorrtLlm
from enginewright_front.trtllm_answers import AnswerReader
from enginewright_front.trtllm_inputs import Inputs, engine_inputs

# Of the 32 threads that Triton's Python backend has for one model's requests to others (thread-pool-size):
# the rest is for cancellations, and for asking who was cancelled.
_OPENING = 24
_WATCH_SECONDS = 0.25


class BlsBackend:
    """See `backend.EngineBackend` for the methods. call: makes a `Call` of model, request id and inputs.

    Request ids towards the models are the backend's own: the callers' need not be unique.
    """

    def __init__(
        self,
        engine: TensorrtLlm,
        *,
        stall_seconds: float,
        call: Callable[[str, str, Inputs], Call] = BlsCall,
    ) -> None:
        self._engine = engine
        self._call = call
        self._models = [
            BlsModel(
                model,
                opening_limit=max(1, _OPENING // len(engine.models)),
                silence_seconds=engine.silence_seconds,
                stall_seconds=stall_seconds,
            )
            for model in engine.models
        ]
        self.limits = EngineLimits(
            max_seq_len=max(model.max_seq_len for model in engine.models),
            slots=sum(model.slots for model in engine.models),
            vocab_size=engine.vocab_size,
        )
        self._rounds = 0
        self._stopping = threading.Event()
        self._work = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch-calls", daemon=True)
        self._thread.start()

    def submit(self, request: EngineRequest, on_event: Callable[[TokenEvent], None]) -> EngineHandle:
        """To the first model whose context holds prompt and max_tokens."""
        needed = len(request.input_ids) + request.sampling.max_tokens
        model = next((m for m in self._models if m.model.max_seq_len >= needed), self._models[-1])
        sampling = request.sampling
        line = Line(
            self._call(model.model.name, str(uuid.uuid4()), engine_inputs(request, self._engine)),
            AnswerReader(self._engine.end_ids, sampling.stop_token_ids, sampling.max_tokens),
            on_event,
        )
        model.submit(line)
        self._work.set()
        return _Handle(model, line)

    def stats(self) -> EngineStats:
        """TensorRT-LLM reports its KV cache among the server's own metrics (nv_trt_llm_kv_cache_*)."""
        loads = [model.load() for model in self._models]
        return EngineStats(sum(load[0] for load in loads), sum(load[1] for load in loads), None)

    def pulse(self) -> int:
        """Moves as long as the watch here does, which looks at each model for itself."""
        return self._rounds

    def close(self) -> None:
        """Ends all requests."""
        self._stopping.set()
        self._work.set()
        self._thread.join()
        for model in self._models:
            model.close()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self._work.clear()
            self._rounds += 1
            for model in self._models:
                model.watch()
            if not any(model.has_calls for model in self._models):
                self._work.wait()
            self._stopping.wait(_WATCH_SECONDS)


class _Handle:
    def __init__(self, model: BlsModel, line: Line) -> None:
        self._model = model
        self._line = line

    def cancel(self) -> None:
        """See `backend.EngineHandle`."""
        self._model.cancel(self._line)
