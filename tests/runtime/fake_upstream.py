"""Stands for the text models of TensorRT-LLM and vLLM behind a real Triton: what they send, without a GPU.

It says the words of its prompt, each with a space. `show` in their place: its inputs, as JSON. Characters
come in halves, as upstream's cumulative texts do: half of one is U+FFFD. As upstream it repeats the prompt
unless that is excluded, refuses `streaming` unless it is decoupled, and counts the tokens of each response.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """Answers within `execute`."""

    def initialize(self, args: dict[str, Any]) -> None:
        config = json.loads(args["model_config"])
        self.parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.kind = self.parameters["kind"]
        self.decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        self.batched = config["max_batch_size"] > 0

    def execute(self, requests: list[Any]) -> list[Any] | None:
        answers = [list(self.responses(request)) for request in requests]
        if not self.decoupled:
            return [responses[0] for responses in answers]
        for request, responses in zip(requests, answers, strict=True):
            sender = request.get_response_sender()
            for response in responses[:-1]:
                sender.send(response)
            sender.send(responses[-1], FINAL)
        return None

    def responses(self, request: Any) -> Any:
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        wanted_rank = 2 if self.batched else 1
        wrong = [name for name, array in given.items() if array.ndim != wanted_rank]
        if wrong:
            yield pb_utils.InferenceResponse([], error=pb_utils.TritonError(f"wrong rank: {wrong}"))
            return
        flat = {name: array.reshape(-1) for name, array in given.items()}
        stream = bool(flat.get("streaming", flat.get("stream", [False]))[0])
        if stream and not self.decoupled:
            error = pb_utils.TritonError("Streaming is only supported in decoupled mode.")
            yield pb_utils.InferenceResponse([], error=error)
            return
        prompt = flat["text_input"][0].decode()
        text = prompt if prompt != "show" else json.dumps(show(flat), sort_keys=True)
        words = [word + " " for word in text.split(" ")]
        most = self.most(flat)
        reason = "length" if most < len(words) else "stop"
        words = words[:most]
        excluded = flat.get("sampling_param_exclude_input_from_output", flat.get("exclude_input_in_output"))
        if not stream:
            repeated = prompt if excluded is None or not excluded[0] else ""
            yield self.response(flat, repeated + "".join(words), reason, len(words))
            return
        so_far = ""
        for number, word in enumerate(words, 1):
            last = number == len(words)
            so_far += word
            cumulative = self.kind == "llmapi" or self.parameters.get("accumulate_tokens") == "true"
            if cumulative and not last:
                yield self.response(flat, so_far[:-1] + "\ufffd", "None", 1)
            else:
                yield self.response(flat, so_far if cumulative else word, reason if last else "None", 1)

    def most(self, flat: dict[str, Any]) -> int:
        if self.kind == "vllm":
            return int(json.loads(flat["sampling_parameters"][0]).get("max_tokens", 10**6))
        return int(flat.get("sampling_param_max_tokens", flat.get("max_tokens", [10**6]))[0])

    def response(self, flat: dict[str, Any], text: str, reason: str, tokens: int) -> Any:
        kind = np.uint32 if self.kind == "vllm" else np.int32
        arrays = {"text_output": np.array([text.encode()], object)}
        if flat.get("return_finish_reason", [False])[0]:
            arrays["finish_reason"] = np.array([reason.encode()], object)
        if flat.get("return_num_input_tokens", [False])[0]:
            arrays["num_input_tokens"] = np.array([3], kind)
        if flat.get("return_num_output_tokens", [False])[0]:
            arrays["num_output_tokens"] = np.array([tokens], kind)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in arrays.items()])


def show(flat: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [value.decode() if isinstance(value, bytes) else value.item() for value in array]
        for name, array in flat.items()
    }
