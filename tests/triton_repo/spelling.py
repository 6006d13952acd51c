"""Real tokenizers of both families: byte-level BPE (Qwen2, Llama 3), SentencePiece with bytes (Llama 2)."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

SAMPLES = [
    "The capital of France is Paris.",
    "naïve café, où ça? Ünïcödé",
    "日本語と中文和한국어",
    "😀 family: 👨‍👩‍👧‍👦, flag: 🇫🇷, thumbs: 👍🏽",
    "tabs\tand\nnewlines\n\n  and   spaces ",
    "combining: e\u0301 n\u0303, arabic: مرحبا, thai: สวัสดี, rare: \U00020bb7𝔘",
]


def byte_level(folder: Path) -> Tokenizer:
    """The tokenizer that the tiny checkpoints have, with `<think>` and `</think>` as QwQ has them."""
    from tiny_models import write_tokenizer

    write_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(
        [AddedToken(text, special=False, normalized=False) for text in ("<think>", "</think>")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As converted from SentencePiece: ASCII pieces, `<0x..>` for other bytes, a leading space dropped."""
    alphabet = sorted(
        {letter for letter in "".join(SAMPLES) if letter.isascii() and letter.isprintable()} | {"▁"}
    )
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", "<s>", "</s>", *byte_pieces],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for text in SAMPLES if text.isascii()] * 4, trainer)
    # The trainer marks the byte pieces as control tokens, which a converted SentencePiece model does not.
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [
        token for token in data["added_tokens"] if token["content"] in ("<unk>", "<s>", "</s>")
    ]
    return Tokenizer.from_str(json.dumps(data))
