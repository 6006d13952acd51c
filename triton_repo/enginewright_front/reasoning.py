"""Does a checkpoint think aloud, between which markers, and who writes the first of them?"""

from __future__ import annotations

from pathlib import Path

from enginewright_front.chat_template import read_chat_template
from enginewright_front.front_config import Reasoning
from enginewright_front.messages import Message
from enginewright_front.prompt import read_tokenizer
from enginewright_front.refusal import InvalidRequest

OPEN, CLOSE = "<think>", "</think>"


def detect_reasoning(checkpoint: Path) -> Reasoning | None:
    """The markers of a model whose template opens `<think>` or whose tokenizer has both as tokens.

    QwQ's template ends with `<think>` and a newline, so its output holds the closing marker alone. None for a
    tokenizer whose markers are control tokens: no text shows them.
    """
    tokenizer = read_tokenizer(checkpoint)
    template = read_chat_template(checkpoint)
    opened = False
    if template is not None:
        try:
            opened = template.render([Message("user", "Hello")]).rstrip().endswith(OPEN)
        except InvalidRequest:
            opened = False
    control = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    if CLOSE in control:
        return None
    known = tokenizer.token_to_id(OPEN) is not None and tokenizer.token_to_id(CLOSE) is not None
    return Reasoning(open=OPEN, close=CLOSE, opened_by_template=opened) if opened or known else None
