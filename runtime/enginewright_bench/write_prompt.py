"""Prompts of an exact number of tokens, made of words that a seed draws."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np
from enginewright_client import InvalidRequest

from enginewright_bench.words import WORDS

__all__ = ["CountTokens", "PromptWriter"]

CountTokens = Callable[[str], Awaitable[int]]
"""Tokens of a prompt with this text, whatever the server puts around it included."""

_FIRST_WORDS = 8
_TRIES = 24
_PIECES = (" a", ".", "a", "!")  # shorter than words, for the last tokens


class PromptWriter:
    """Writes prompts for one tokenizer, which it knows by counting alone.

    Where each word is one token, which is checked once for all words, a prompt's length is known without
    counting it: otherwise every prompt would have to be counted by the server, and that costs a prefill.
    """

    def __init__(self, count: CountTokens) -> None:
        self._count = count
        self._per_word = 0.0  # 0: not measured yet
        self._around = 0.0
        self._exact = False

    async def write(self, rng: np.random.Generator, tokens: int) -> str:
        """A prompt of `tokens` tokens, or of the nearest number that words and letters reach."""
        if not self._per_word:
            await self._measure()
        words = _draw(rng, max(1, round((tokens - self._around) / self._per_word)))
        if self._exact:
            return " ".join(words)
        return await self._lengthen(*await self._shorten(words, tokens), tokens)

    async def _measure(self) -> None:
        one = await self._count(WORDS[0])
        try:
            measured = len(WORDS)
            many = await self._count(" ".join(WORDS))
        except InvalidRequest:  # longer than the server's context
            measured = _FIRST_WORDS
            many = await self._count(" ".join(WORDS[:measured]))
        self._per_word = max(1.0, (many - one) / (measured - 1))
        self._around = max(0.0, one - self._per_word)
        self._exact = measured == len(WORDS) and many - one == measured - 1

    async def _shorten(self, words: list[str], tokens: int) -> tuple[str, int]:
        """Without the last words until at most `tokens` are left."""
        for _ in range(_TRIES):
            measured = await self._count(" ".join(words))
            if measured <= tokens or len(words) == 1:
                break
            too_many = max(1, round((measured - tokens) / self._per_word))
            words = words[: max(1, len(words) - too_many)]
        return " ".join(words), measured

    async def _lengthen(self, text: str, measured: int, tokens: int) -> str:
        """With words, then with shorter pieces, as long as they fit into `tokens`."""
        pieces = [" " + WORDS[0], *_PIECES]
        for _ in range(_TRIES * len(pieces)):
            if measured >= tokens or not pieces:
                break
            often = max(1, int((tokens - measured) / (self._per_word + 1)))
            longer = text + pieces[0] * often
            length = await self._count(longer)
            if measured < length <= tokens:
                text, measured = longer, length
            else:
                pieces.pop(0)
        return text


def _draw(rng: np.random.Generator, count: int) -> list[str]:
    return [WORDS[index] for index in rng.integers(len(WORDS), size=count)]
