"""A model of the wire contract whose prompts are orders: what tests of client and server put behind Triton.

    count N MS      N tokens, one every MS milliseconds (the default for other text: its words, at once)
    wait MS         nothing for so many milliseconds, then one token
    fail TEXT       an error as the first response: TEXT
    break           one token, then an error
    stick           an error that is not the end, and no end until it is cancelled
    vanish          one token, then the end without a finish reason
    die             the model process exits
    report          how many requests run beside this one, and how many were cancelled
    show            its own inputs, as JSON

The parameter `fault` of its config: `raise` (initialize fails), `mute` (never answers), `fail after N`.
"""

from __future__ import annotations

import collections
import json
import os
import threading
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """One thread answers; a sender is never asked anything after its last response."""

    def initialize(self, args: dict[str, Any]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self.fault = parameters.get("fault", {}).get("string_value", "")
        if self.fault == "raise":
            raise ValueError("the engine is broken\non purpose")
        print("threads", os.environ.get("ENGINEWRIGHT_THREADS"), flush=True)
        _, _, healthy = self.fault.partition("fail after ")
        self.healthy = int(healthy) if healthy else 10**9
        self.arrived: collections.deque[Running] = collections.deque()
        self.changed = threading.Condition()
        self.left: set[tuple[str, int]] = set()
        self.cancelled, self.closing = 0, False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            if any(tensor.name() == "cancel" for tensor in request.inputs()):
                self.cancel(request)
                continue
            with self.changed:
                self.arrived.append(Running(request))
                self.changed.notify()

    def cancel(self, request: Any) -> None:
        with self.changed:
            self.left.add(cancel_name(request))
        Running(request).end("cancelled")

    def finalize(self) -> None:
        with self.changed:
            self.closing = True
            self.changed.notify()
        self.thread.join()

    def run(self) -> None:
        running: list[Running] = []
        while not self.closing:
            with self.changed:
                while not (self.arrived or running or self.closing):
                    self.changed.wait()
                while self.arrived:
                    running.append(self.arrived.popleft())
            if self.fault != "mute":
                running = [item for item in running if not self.step(item, len(running) - 1)]
            time.sleep(0.0005)
        for item in running:
            item.end("cancelled")

    def step(self, item: Running, others: int) -> bool:
        """Whether `item` has ended."""
        if item.name in self.left or item.sender.is_cancelled():
            self.cancelled += 1
            return item.end("cancelled")
        if item.made == 0:
            self.healthy -= 1
            if self.healthy < 0:
                return item.fail("out of order")
        if item.order == "die":
            os._exit(1)
        if item.order == "fail":
            return item.fail(" ".join(item.words))
        if item.order == "stick":
            if not item.made:
                item.made = 1
                error = pb_utils.TritonError("stuck")
                item.sender.send(pb_utils.InferenceResponse([], error=error))
            return False
        if item.order == "report" and not item.made:
            item.tokens = [f"running={others} cancelled={self.cancelled}"]
        if time.monotonic() < item.due:
            return False
        if item.tokens and item.made < item.max_tokens:
            item.due = time.monotonic() + item.pause
            item.made += 1
            item.pieces.append(item.tokens.pop(0))
            if item.stream:
                item.send(text_output="".join(item.pieces))
                item.pieces.clear()
            return False
        if item.order == "break":
            return item.fail("the engine broke; see the log [engine-broken]")
        if item.order == "vanish":
            item.sender.send(flags=FINAL)
            return True
        return item.end("length" if item.tokens else "stop")


def plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item()


def cancel_name(request: Any) -> tuple[str, int]:
    """What a `cancel` names a request by."""
    [key] = [tensor.as_numpy().item() for tensor in request.inputs() if tensor.name() == "cancel_key"] or [0]
    return request.request_id(), key


class Running:
    """A request and how far it is."""

    def __init__(self, request: Any) -> None:
        given = {tensor.name(): tensor.as_numpy().reshape(-1) for tensor in request.inputs()}
        self.sender = request.get_response_sender()
        self.name = cancel_name(request)
        self.stream = bool(given.get("stream", [False])[0])
        self.max_tokens = int(given.get("max_tokens", [10**9])[0])
        if "messages" in given:
            text = json.loads(given["messages"][0])[-1]["content"]
        else:
            text = given.get("text_input", [b""])[0].decode()
        if text == "show":
            del given["cancel_key"]  # a random number
            text = json.dumps({name: plain(array[0]) for name, array in given.items()}, sort_keys=True)
        self.order, *self.words = text.split(" ")
        self.pause, self.made, self.due = 0.0, 0, 0.0
        self.pieces: list[str] = []
        if self.order == "count":
            self.tokens = [f"{number} " for number in range(int(self.words[0]))]
            self.pause = float(self.words[1]) / 1000
        elif self.order == "wait":
            self.tokens = ["late"]
            self.due = time.monotonic() + float(self.words[0]) / 1000
        elif self.order in ("break", "vanish"):
            self.tokens = ["a"]
        else:
            self.tokens = [word + " " for word in text.split(" ")]
        self.inputs = len(text.split(" "))

    def send(self, flags: int = 0, **tensors: Any) -> None:
        arrays = {
            name: np.array([value.encode()], object)
            if isinstance(value, str)
            else np.array([[value]], np.int32)
            for name, value in tensors.items()
        }
        response = pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in arrays.items()]
        )
        self.sender.send(response, flags)

    def fail(self, message: str) -> bool:
        error = pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
        self.sender.send(pb_utils.InferenceResponse([], error=error), FINAL)
        return True

    def end(self, reason: str) -> bool:
        self.send(
            FINAL,
            text_output="".join(self.pieces),
            finish_reason=reason,
            num_input_tokens=self.inputs,
            num_output_tokens=self.made,
        )
        return True
