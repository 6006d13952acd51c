"""One request to another model of the same server (Triton's BLS): its responses, and ways to end it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from enginewright_front.trtllm_answers import Answer
from enginewright_front.trtllm_inputs import Inputs, stop_inputs

# The C++ model throws when one of the first two is not asked for.
_OUTPUTS = ("output_ids", "sequence_length")
_LOG_PROBS = "output_log_probs"


class Call(Protocol):
    """A request to an engine's model; tests write one without a server."""

    def answers(self) -> Iterator[Answer]:
        """Ask, and wait for one response after the other. Called once, on a thread of the request's own."""

    def cancel(self) -> None:
        """Ask the model to end the request. May block, may be repeated; any thread."""


class BlsCall:
    """A `Call` through `triton_python_backend_utils`.

    request_id: unique in the model, which ends *every* request of an id that it is told to stop.
    """

    def __init__(self, model: str, request_id: str, inputs: Inputs) -> None:
        self._model = model
        self._request_id = request_id
        self._inputs = inputs
        self._responses: Any = None

    def answers(self) -> Iterator[Answer]:
        """`exec` itself returns with the first response."""
        outputs = [*_OUTPUTS, *([_LOG_PROBS] if "return_log_probs" in self._inputs else [])]
        self._responses = self._request(self._inputs, outputs).exec(decoupled=True)
        for response in self._responses:
            yield _answer(response)

    def cancel(self) -> None:
        """Through the iterator where the server has that (25.04 and later), else by a `stop` request."""
        cancel = getattr(self._responses, "cancel", None)
        if cancel is not None:
            cancel()
            return
        for _ in self._request(stop_inputs(), list(_OUTPUTS)).exec(decoupled=True):
            pass

    def _request(self, inputs: Inputs, outputs: list[str]) -> Any:
        import triton_python_backend_utils as pb_utils

        return pb_utils.InferenceRequest(
            model_name=self._model,
            request_id=self._request_id,
            inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
            requested_output_names=outputs,
        )


def _answer(response: Any) -> Answer:
    if response.has_error():
        return Answer(None, error=response.error().message())
    found = {tensor.name(): tensor for tensor in response.output_tensors()}
    ids = found.get("output_ids")
    if ids is None:
        return Answer(None)
    logprobs = found.get(_LOG_PROBS)
    return Answer(
        tuple(ids.as_numpy().reshape(-1).tolist()),
        None if logprobs is None else tuple(logprobs.as_numpy().reshape(-1).tolist()),
    )
