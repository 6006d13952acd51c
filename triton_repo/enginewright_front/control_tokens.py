"""Control tokens that a user writes stay text: `<|im_end|>` in a message never becomes the id ending a turn.

A tokenizer takes a control token out of a text wherever it stands, and after the template was rendered nobody
knows which ones came from a user. So each occurrence in a message is replaced by a placeholder before
rendering. The placeholders are themselves added tokens, of names that nobody can guess, so tokenizing keeps
them whole; their ids are then replaced by the ids of the control token's letters. A message without control
tokens is not touched at all, and its ids are exactly those of transformers. Tokenizing the pieces between
user contents separately was the alternative: it breaks merges across their borders (a newline of the template
and a newline of the content are one token for Qwen).
"""

from __future__ import annotations

import re
import secrets

from enginewright_errors import CheckpointError
from tokenizers import AddedToken, Tokenizer  # type: ignore[import-untyped]


class ControlTokens:
    """`reveal(encode(render(hide(content))))` holds no control id that came from `content`.

    Adds the placeholders to `tokenizer`, as control tokens with ids behind its vocabulary.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = {
            i: token.content for i, token in tokenizer.get_added_tokens_decoder().items() if token.special
        }
        texts = sorted(special.values(), key=len, reverse=True)
        self.ids = frozenset(special)
        self._pattern = re.compile("|".join(map(re.escape, texts))) if texts else None
        letters = {text: _letters(tokenizer, text, self.ids) for text in texts}
        nonce = secrets.token_hex(8)
        self._placeholder = {text: f"ew{nonce}x{index}x" for index, text in enumerate(texts)}
        tokenizer.add_special_tokens(
            [AddedToken(name, normalized=False, special=True) for name in self._placeholder.values()]
        )
        self._letters: dict[int, list[int]] = {}
        for text, name in self._placeholder.items():
            placeholder_id = tokenizer.token_to_id(name)
            if placeholder_id is not None:
                self._letters[placeholder_id] = letters[text]

    def hide(self, content: str) -> str:
        """`content` with a placeholder for each control token in it."""
        if self._pattern is None:
            return content
        return self._pattern.sub(lambda found: self._placeholder[found.group()], content)

    def reveal(self, ids: list[int]) -> list[int]:
        """`ids` with the letters of the control token for each placeholder."""
        if self._letters.keys().isdisjoint(ids):
            return ids
        return [plain for token in ids for plain in self._letters.get(token, (token,))]


def _letters(tokenizer: Tokenizer, text: str, control: frozenset[int]) -> list[int]:
    """The ids of `text` read as plain text; letter by letter where the model's vocabulary holds it whole."""
    tokenizer.encode_special_tokens = True
    try:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        if not control.isdisjoint(ids):
            ids = [
                token for letter in text for token in tokenizer.encode(letter, add_special_tokens=False).ids
            ]
    finally:
        tokenizer.encode_special_tokens = False
    if not control.isdisjoint(ids):
        raise CheckpointError(
            f"tokenizer.json: the control token {text!r} cannot be written as text",
            code="tokenizer-control-token",
            hint="use a tokenizer whose control tokens are not letters of its vocabulary",
        )
    return ids
