"""Documents from a text or JSONL file, tokenized and packed into samples of one length.

Built-in texts (`data/`) were written for this project: prose in ten languages, dialogues, worked maths, code.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from enginewright_errors import RecipeError
from numpy.typing import NDArray

__all__ = ["TextSamples", "pack", "read_documents"]

Document = str | list[dict[str, str]]

# A file is held in memory; calibration beyond this size has no use.
MAX_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class TextSamples:
    """Token ids, int32 [samples, length]."""

    ids: NDArray[np.int32]

    @property
    def sha256(self) -> str:
        """Hash of exactly these ids in this order; the same on every machine."""
        digest = hashlib.sha256(repr(self.ids.shape).encode())
        digest.update(np.ascontiguousarray(self.ids, dtype="<i4").tobytes())
        return digest.hexdigest()


def read_documents(path: Path, field: str, where: str) -> list[Document]:
    """Documents of a .txt file (two blank lines part them), or the `field` of every line of a .jsonl file.

    A JSONL field may hold a text, or a conversation: a list of {"role", "content"}. `where` is the recipe
    field that named the file, for errors.

    Raises:
        RecipeError: a file that is missing, too large, no UTF-8 or of another kind; a line without the field.
    """
    kind = path.suffix.lower()
    if kind not in (".txt", ".jsonl"):
        raise RecipeError(
            f"{where}: {path.name} is neither .txt nor .jsonl",
            code="calibration-format",
            hint="give a UTF-8 text file, or one JSON object a line",
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(
                f"{where}: {path.name} has {path.stat().st_size} bytes, the limit is {MAX_BYTES}",
                code="calibration-too-large",
                hint="a few thousand documents are plenty: give a part of it",
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            f"{where}: {path} cannot be read: {error.strerror or error}",
            code="calibration-missing",
            hint="check the path: it is relative to the recipe",
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{where}: {path.name} is not UTF-8 at byte {error.start}",
            code="calibration-format",
            hint="convert it, for example with iconv",
        ) from error
    if kind == ".txt":
        return [part for part in (piece.strip("\n") for piece in text.split("\n\n\n")) if part.strip()]
    return list(_records(path, text, field, where))


def pack(
    documents: Sequence[Document],
    encode: Callable[[Document], Sequence[int]],
    *,
    samples: int,
    length: int,
    seed: int | None,
    prefix: Sequence[int] = (),
    where: str,
) -> TextSamples:
    """Shuffle the documents by `seed` (None: leave them as they are), tokenize, cut the stream into samples.

    Each sample is `prefix` (a BOS token, where the tokenizer wants one) and then tokens of the stream.
    Documents follow one another without padding, so every position of a sample is real text.

    Raises:
        RecipeError: fewer samples than asked for; the message says how many there are.
    """
    order = list(range(len(documents)))
    if seed is not None:
        random.Random(seed).shuffle(order)
    width = length - len(prefix)
    wanted, stream = samples * width, list[int]()
    for index in order:
        stream.extend(encode(documents[index]))
        if len(stream) >= wanted:
            break
    available = len(stream) // width
    if available < samples:
        raise RecipeError(
            f"{where} gives {available} samples of {length} tokens ({len(stream)} tokens in all), "
            f"but {samples} are asked for",
            code="calibration-too-small",
            hint=f"ask for at most {available} samples, make them shorter, or give more text",
        )
    rows = np.asarray(stream[:wanted], dtype=np.int32).reshape(samples, width)
    head = np.tile(np.asarray(prefix, dtype=np.int32), (samples, 1))
    return TextSamples(np.concatenate([head, rows], axis=1))


def _records(path: Path, text: str, field: str, where: str) -> Iterator[Document]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{where}: {path.name}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _bad_line(f"{place}: is not JSON", "each line has to be one JSON object") from error
        if not isinstance(record, dict) or field not in record:
            known = ", ".join(sorted(record)[:8]) if isinstance(record, dict) else type(record).__name__
            raise _bad_line(
                f"{place}: has no field {field!r}", f"it has {known}: set quantization.calibration.field"
            )
        value = record[field]
        if isinstance(value, str):
            if value.strip():
                yield value
        elif _is_conversation(value):
            yield value
        else:
            raise _bad_line(
                f"{place}: {field!r} is of the wrong type", 'give a text, or a list of {"role", "content"}'
            )


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(turn, dict)
            and isinstance(turn.get("role"), str)
            and isinstance(turn.get("content"), str)
            for turn in value
        )
    )


def _bad_line(message: str, hint: str) -> RecipeError:
    return RecipeError(message, code="calibration-format", hint=hint)
