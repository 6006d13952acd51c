"""Would the checkpoint have chosen the tokens of a served greedy answer? On the CPU, without the server.

usage: score_answer.py CHECKPOINT --prompt TEXT --answer FILE

CHECKPOINT is a folder: the original one, or the quantized one that the engine was built from. FILE is what
`enginewright ask --raw TEXT --temperature 0 --json` printed. Layers are loaded one after the other: a 32B
model takes minutes, and the memory of its embedding, its lm_head and a layer in float32.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from enginewright.reference_logits import ReferenceSequence, reference_logits
from enginewright.torch_session import torch_session
from enginewright_front.prompt import read_tokenizer

__all__ = ["Score", "main", "parser", "score_answer"]


@dataclass(frozen=True, slots=True)
class Score:
    """agreed: of the answer's `tokens`, how many the checkpoint would have chosen at their place.

    first_other: index of the first that it would not have; None: it would have chosen all.
    largest_gap: by how much its own choice was ahead there, in units of the logits, at most.
    """

    tokens: int
    agreed: int
    first_other: int | None
    largest_gap: float


def score_answer(checkpoint: Path, prompt: str, answer: str) -> Score:
    """Score `answer` token by token, each after the answer's own tokens before it.

    Both texts are tokenized here: a token that the engine spelled in another way counts against it.
    """
    tokenizer = read_tokenizer(checkpoint)
    head = tokenizer.encode(prompt).ids
    tail = np.array(tokenizer.encode(answer, add_special_tokens=False).ids, np.int32)
    ids = np.concatenate([np.array(head, np.int32), tail])
    with torch_session():
        [logits] = reference_logits(checkpoint, [ReferenceSequence(ids)])
    rows = logits[len(head) - 1 : -1]
    gaps = rows.max(axis=1) - rows[np.arange(len(tail)), tail]
    others = np.flatnonzero(gaps > 0)
    return Score(
        tokens=len(tail),
        agreed=len(tail) - len(others),
        first_other=int(others[0]) if len(others) else None,
        largest_gap=float(gaps.max(initial=0.0)),
    )


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    flags.add_argument("checkpoint", type=Path)
    flags.add_argument("--prompt", required=True)
    flags.add_argument("--answer", type=Path, required=True)
    return flags


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    last = json.loads(options.answer.read_text(encoding="utf-8").splitlines()[-1])
    score = score_answer(options.checkpoint, options.prompt, last["text"])
    other = "none" if score.first_other is None else f"token {score.first_other}"
    print(
        f"{score.agreed} of {score.tokens} tokens are the checkpoint's own choice; first other: {other};"
        f" largest gap {score.largest_gap:.3g}"
    )


if __name__ == "__main__":
    main()
