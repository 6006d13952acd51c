"""Two ways to count a prompt's tokens: ask the server, or run the checkpoint's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from enginewright_client import Completion, Prompt, SamplingParams
from enginewright_errors import UsageError

from enginewright_bench.write_prompt import CountTokens

__all__ = ["LocalTokenizer", "count_by_server"]


class GeneratingClient(Protocol):
    """What counting needs of a client."""

    async def generate(
        self, prompt: Prompt, sampling: SamplingParams | None = None, *, timeout: float | None = None
    ) -> Completion: ...


def count_by_server(client: GeneratingClient, *, chat: bool, timeout: float | None = None) -> CountTokens:
    """Counts by generating one token: exact, template included, at the price of a prefill.

    The counter raises UsageError for a server that does not count.
    """

    async def count(text: str) -> int:
        prompt: Prompt = [{"role": "user", "content": text}] if chat else text
        answer = await client.generate(prompt, SamplingParams(max_tokens=1), timeout=timeout)
        if answer.usage is None:
            raise UsageError(
                "this server does not count tokens",
                code="no-token-counts",
                hint="serve the model through Enginewright's front",
            )
        return answer.usage.input_tokens

    return count


class LocalTokenizer:
    """A `tokenizer.json`, or a folder or a packaged repository that has one.

    Raises UsageError for a path without one. Needs the package `tokenizers`.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer  # type: ignore[import-untyped]

        file = _find(path)
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(file))
        except Exception as error:  # the Rust side raises plain Exception
            raise UsageError(
                f"{file} is no tokenizer: {error}", code="tokenizer", hint="give a tokenizer.json"
            ) from None

    def tokens(self, text: str) -> int:
        """Tokens of `text` alone, no special ones added."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    async def count(self, text: str) -> int:
        """Tokens of a prompt that is sent as text, the special ones that the tokenizer adds included."""
        return len(self._tokenizer.encode(text).ids)


def _find(path: Path) -> Path:
    places = (path, path / "tokenizer.json", path / "llm" / "1" / "checkpoint" / "tokenizer.json")
    for place in places:
        if place.is_file():
            return place
    raise UsageError(
        f"{path} has no tokenizer.json", code="tokenizer", hint="give the checkpoint's folder or the file"
    )
