"""The answer of a chat, parted into thinking and content, whatever reads it."""

from __future__ import annotations

from collections import deque

from enginewright_client._models import ChatCompletion, ChatDelta, Delta, ModelConfig
from enginewright_client._reasoning import Piece, ReasoningSplitter

__all__ = ["ChatReader"]


class ChatReader:
    """Feed it deltas, take what is `pending`."""

    def __init__(self) -> None:
        self.pending: deque[ChatDelta] = deque()
        self._splitter: ReasoningSplitter | None = None
        self._begun = False
        self._texts: dict[str, list[str]] = {"reasoning": [], "content": []}

    def feed(self, delta: Delta, config: ModelConfig | None) -> None:
        """Part one more delta; what is ready waits in `pending`."""
        if not self._begun:
            self._begun = True
            self._splitter = _splitter(config)
        if self._splitter is None:
            pieces = [Piece("content", delta.text)] if delta.text else []
        else:
            pieces = self._splitter.feed(delta.text)
            if delta.finish_reason is not None:
                pieces += self._splitter.finish()
        for piece in pieces:
            self._texts[piece.kind].append(piece.text)
            thought = piece.kind == "reasoning"
            self.pending.append(ChatDelta(reasoning=piece.text) if thought else ChatDelta(content=piece.text))
        if delta.finish_reason is not None:
            self.pending.append(ChatDelta(finish_reason=delta.finish_reason, usage=delta.usage))

    @property
    def message(self) -> dict[str, str]:
        """The answer so far as a message for the history."""
        return {"role": "assistant", "content": "".join(self._texts["content"])}

    def completion(self, request_id: str) -> ChatCompletion:
        """The whole answer; every delta was fed, and the last one is still pending."""
        last = self.pending[-1]
        if last.finish_reason is None:
            raise ValueError("the answer is not complete")
        thinking, answer = ("".join(self._texts[kind]) for kind in ("reasoning", "content"))
        return ChatCompletion(thinking, answer, last.finish_reason, last.usage, request_id)


def _splitter(config: ModelConfig | None) -> ReasoningSplitter | None:
    markers = None if config is None else config.reasoning_markers
    if config is None or markers is None:
        return None
    return ReasoningSplitter(*markers, opened=bool(config.reasoning.get("opened_by_template", False)))
