"""The comparison of the smoke test on a GPU, held against transformers' own logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gpu.score_answer import main, score_answer
from tiny_models import TEXT
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="module")
def checkpoint(tiny: Callable[..., Path]) -> Path:
    return tiny(arch="qwen2")


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


@pytest.fixture(scope="module")
def logits(checkpoint: Path, tokenizer: Tokenizer) -> Callable[[str], torch.Tensor]:
    """`logits(text)`: float32 [tokens, vocab] by transformers."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def compute(text: str) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([tokenizer.encode(text).ids])).logits[0]

    return compute


@pytest.fixture(scope="module")
def chosen(tokenizer: Tokenizer, logits: Callable[[str], torch.Tensor]) -> tuple[str, str]:
    """A prompt and the token that transformers would choose next, one that survives as text."""
    for prompt in " ".join(TEXT).split():
        best = int(logits(prompt)[-1].argmax())
        text = tokenizer.decode([best], skip_special_tokens=False)
        if tokenizer.encode(text).ids == [best]:
            return prompt, text
    pytest.fail("no prompt of the tiny model is continued by a token that is text")


def test_what_the_checkpoint_would_have_chosen_counts(
    checkpoint: Path, chosen: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt, text = chosen
    answer = tmp_path / "answer.jsonl"
    answer.write_text(json.dumps({"delta": text}) + "\n" + json.dumps({"ok": True, "text": text}) + "\n")
    main([str(checkpoint), "--prompt", prompt, "--answer", str(answer)])
    assert capsys.readouterr().out == (
        "1 of 1 tokens are the checkpoint's own choice; first other: none; largest gap 0\n"
    )


def test_another_token_is_told_with_how_far_behind_it_was(
    checkpoint: Path,
    tokenizer: Tokenizer,
    logits: Callable[[str], torch.Tensor],
    chosen: tuple[str, str],
) -> None:
    prompt, text = chosen
    other = " Paris" if text != " Paris" else " Tokyo"
    tail = tokenizer.encode(text + other).ids[1:]
    rows = logits(prompt + text + other)[-1 - len(tail) : -1]
    gaps = rows.max(dim=1).values - rows[range(len(tail)), tail]
    score = score_answer(checkpoint, prompt, text + other)
    assert score.tokens == 1 + len(tail)
    assert score.agreed == 1 + int((gaps == 0).sum())
    assert score.first_other == 1 + int((gaps > 0).nonzero()[0])
    assert score.largest_gap == pytest.approx(float(gaps.max()), abs=1e-3)
