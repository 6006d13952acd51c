"""Text or messages -> token ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from enginewright_errors import CheckpointError
from tokenizers import Tokenizer  # type: ignore[import-untyped]

from enginewright_front.chat_template import read_chat_template
from enginewright_front.control_tokens import ControlTokens
from enginewright_front.messages import Message
from enginewright_front.refusal import InvalidRequest


class PromptEncoder:
    """The tokenizer and chat template of a checkpoint folder. Safe to use from several threads.

    tokenizer: of the folder, with placeholders for its control tokens added behind its vocabulary.
    """

    def __init__(self, checkpoint: Path) -> None:
        """Raises CheckpointError when tokenizer.json is missing or damaged or the template does not parse."""
        self.tokenizer = read_tokenizer(checkpoint)
        self._template = read_chat_template(checkpoint)
        self._control = ControlTokens(self.tokenizer)

    def encode_text(self, text: str) -> list[int]:
        """The ids of a raw prompt [S]. Control tokens in it count; the tokenizer's own (BOS) are added.

        A prompt that begins with the BOS token already does not get a second one.
        """
        ids: list[int] = self.tokenizer.encode(text).ids
        doubled = len(ids) > 1 and ids[0] == ids[1] and ids[0] in self._control.ids
        return ids[1:] if doubled and self.tokenizer.num_special_tokens_to_add(False) > 0 else ids

    def encode_messages(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation [S], up to where the answer begins; control tokens in contents are text.

        Raises InvalidRequest when there is no template or it refuses the conversation.
        """
        if self._template is None:
            raise InvalidRequest(
                "messages", "cannot be used: the model has no chat template", hint="send text_input"
            )
        hidden = [Message(message.role, self._control.hide(message.content)) for message in messages]
        ids: list[int] = self.tokenizer.encode(self._template.render(hidden), add_special_tokens=False).ids
        return self._control.reveal(ids)

    def encode_output(self, text: str) -> tuple[int, ...]:
        """The ids of `text` as a model writes it, markers as their tokens."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_bad_words(self, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
        """The token sequences that spell each word at the beginning and (with a space) within a text.

        A word that the model spells with other tokens is not caught: upstream and vLLM have the same limit.
        """
        spelled = [spelling for word in words for spelling in (word, word if word[0] == " " else f" {word}")]
        encoded = (tuple(self.tokenizer.encode(text, add_special_tokens=False).ids) for text in spelled)
        return tuple(dict.fromkeys(ids for ids in encoded if ids))


def read_tokenizer(checkpoint: Path) -> Tokenizer:
    """`checkpoint/tokenizer.json`, without truncation and padding. Raises CheckpointError."""
    path = checkpoint / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(f"{path}: missing", code="tokenizer-missing", hint="package the model again")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(
            f"{path}: {error}", code="tokenizer-damaged", hint="package the model again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
