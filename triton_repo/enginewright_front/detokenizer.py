"""Token ids -> text as they come, never half a character; the pieces joined are the text of all ids at once.

Every token stands for bytes, whatever its tokenizer: letters of a byte-level BPE, `<0xE2>` of a SentencePiece
model, UTF-8 of a plain piece. So a stream of ids is a stream of bytes, and an incremental UTF-8 decoder holds
back exactly an unfinished character: constant work a token. Decoding a window of recent ids again for each
token, the usual way, grows with the window while characters stay unfinished.

Equal to `Tokenizer.decode(ids, skip_special_tokens=True)`, with one exception: in a run of `<0x..>` tokens
that is not valid UTF-8 the tokenizers library drops the whole run's characters, and here the valid ones stay.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from typing import Any

from enginewright_errors import CheckpointError
from tokenizers import Tokenizer  # type: ignore[import-untyped]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_EACH_BYTE = "enginewright-replace-each-byte"


class TokenTable:
    """The bytes of every token of one tokenizer, found on first use. Shared by all requests.

    Raises CheckpointError for a decoder with other steps than ByteLevel or Replace, ByteFallback, Fuse and
    Strip: those of the Qwen2 and Llama families.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._known: dict[int, bytes] = {}
        self._replace: list[tuple[str, str]] = []
        self._letters: dict[str, int] | None = None
        self.leading_spaces = 0
        self._read_decoder(tokenizer)
        # What bytes that are no UTF-8 come to: one U+FFFD for a broken character, or one for each byte.
        self.errors = "replace" if self._letters is not None else _EACH_BYTE

    def bytes_of(self, token: int) -> bytes:
        """The bytes of `token`; none for a control token or an id without one."""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._spell(token)
        return found

    def _spell(self, token: int) -> bytes:
        text = None if token in self._special else self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        for pattern, content in self._replace:
            text = text.replace(pattern, content)
        if self._letters is not None:
            # A letter outside the byte alphabet means that the token was added as plain text.
            letters = [self._letters.get(letter, -1) for letter in text]
            return text.encode() if -1 in letters else bytes(letters)
        found = _BYTE_TOKEN.fullmatch(text)
        return bytes([int(found.group(1), 16)]) if found else text.encode()

    def _read_decoder(self, tokenizer: Tokenizer) -> None:
        fused = False
        for step in _decoder_steps(tokenizer):
            kind = step["type"]
            if kind == "ByteLevel":
                self._letters = _byte_letters()
            elif kind == "Replace" and "String" in step["pattern"]:
                self._replace.append((step["pattern"]["String"], step["content"]))
            elif kind == "Fuse":
                fused = True
            elif kind == "Strip" and fused and step["content"] == " " and step["stop"] == 0:
                self.leading_spaces = step["start"]
            elif kind != "ByteFallback":
                raise CheckpointError(
                    f"tokenizer.json: the decoder {json.dumps(step)[:120]} is not supported",
                    code="tokenizer-decoder",
                    hint="use a tokenizer with a ByteLevel or a Replace/ByteFallback/Fuse/Strip decoder",
                )


class Detokenizer:
    """One request's text. `continues`: the ids continue a prompt, so a leading space of theirs is text."""

    def __init__(self, table: TokenTable, *, continues: bool = False) -> None:
        self._bytes_of = table.bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")(table.errors)
        self._spaces_to_drop = 0 if continues else table.leading_spaces

    def feed(self, tokens: Iterable[int]) -> str:
        """The characters that `tokens` complete; "" while they complete none."""
        return self._trimmed(self._decoder.decode(b"".join(map(self._bytes_of, tokens))))

    def finish(self) -> str:
        """What an unfinished character at the end comes to: U+FFFD, or ""."""
        return self._trimmed(self._decoder.decode(b"", final=True))

    def _trimmed(self, text: str) -> str:
        while self._spaces_to_drop and text:
            if text[0] == " ":
                text = text[1:]
                self._spaces_to_drop -= 1
            else:
                self._spaces_to_drop = 0
        return text


def _decoder_steps(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    if tokenizer.decoder is None:
        return [{"type": None}]
    decoder: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__())
    steps: list[dict[str, Any]] = decoder.get("decoders", [decoder])
    return steps


def _byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 letters stand for themselves, the other bytes for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(_EACH_BYTE, _replace_each_byte)
