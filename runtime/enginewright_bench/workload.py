"""The requests of a load: the same seed and the same tokenizer give the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from enginewright_client import Prompt, SamplingParams

from enginewright_bench.lengths import Lengths
from enginewright_bench.prompt_file import GivenPrompt
from enginewright_bench.send_request import BenchRequest
from enginewright_bench.write_prompt import PromptWriter

__all__ = ["Workload"]


@dataclass(frozen=True, slots=True)
class Workload:
    """What requests are like.

    inputs, outputs: their lengths in tokens. given: real prompts to use instead of made ones. chat: a made or
    plain prompt is sent as a user's message; its tokens then include the template's. ends_early: an answer
    may end at its end token, instead of being made exactly as long as `outputs` says.
    context: tokens that prompt and answer may have together; drawn lengths are cut to it.
    """

    outputs: Lengths
    inputs: Lengths = field(default_factory=lambda: Lengths(1))
    given: Sequence[GivenPrompt] = ()
    chat: bool = False
    ends_early: bool = False
    context: int | None = None

    def inputs_text(self) -> str:
        """What the prompts are, for a table."""
        return f"{len(self.given)} prompts" if self.given else str(self.inputs)

    async def requests(
        self, writer: PromptWriter, count: int, seed: tuple[int, ...], name: str
    ) -> list[BenchRequest]:
        """`count` requests; ids are `name-0`, `name-1`, ...

        Each request has a generator of its own, so that a longer run begins with the same requests. Given
        prompts come in an order that the seed shuffles, each once before any comes again: a server may keep
        the KV cache of a prompt that it knows.
        """
        order = np.random.default_rng(seed).permutation(len(self.given))
        requests = []
        for index in range(count):
            rng = np.random.default_rng([*seed, index])
            given = self.given[order[index % len(order)]] if self.given else None
            requests.append(await self._request(writer, rng, given, index, f"{name}-{index}"))
        return requests

    async def _request(
        self,
        writer: PromptWriter,
        rng: np.random.Generator,
        given: GivenPrompt | None,
        index: int,
        request_id: str,
    ) -> BenchRequest:
        [outputs] = self.outputs.draw(rng, 1)
        prompt: Prompt
        inputs: int | None = None
        if given is not None:
            prompt, outputs = given.prompt, given.output_tokens or outputs
        else:
            [inputs] = self.inputs.draw(rng, 1)
            if self.context is not None:
                outputs = min(outputs, self.context - 1)
                inputs = min(inputs, self.context - outputs)
            prompt = await writer.write(rng, inputs)
        if self.chat and isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        sampling = SamplingParams(
            max_tokens=outputs,
            min_tokens=None if self.ends_early else outputs,
            seed=int(rng.integers(2**63)),
        )
        return BenchRequest(index, request_id, prompt, inputs, sampling)
