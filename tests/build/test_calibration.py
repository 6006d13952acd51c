"""Calibration data: what the recipe says, packed alike everywhere, and never fewer samples in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enginewright.calibration import load_calibration, load_held_out
from enginewright.recipe import CalibrationRecipe, VerifyRecipe
from enginewright.text_samples import read_documents
from enginewright_errors import RecipeError
from tokenizers import Tokenizer, processors

Tiny = Callable[..., Path]


def load(tiny: Tiny, **fields: Any) -> np.ndarray:
    return load_calibration(CalibrationRecipe(**{"samples": 4, "length": 64, **fields}), tiny()).ids


def refused(tiny: Tiny, code: str, *says: str, **fields: Any) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load(tiny, **fields)
    assert caught.value.code == code, caught.value.message
    for text in says:
        assert text in caught.value.message, caught.value.message
    assert caught.value.hint
    return caught.value


def text_of(ids: np.ndarray, folder: Path) -> str:
    return str(Tokenizer.from_file(str(folder / "tokenizer.json")).decode(ids.ravel().tolist()))


def test_the_builtin_text_fills_samples_with_real_text(tiny: Tiny) -> None:
    samples = load_calibration(CalibrationRecipe(samples=32, length=512), tiny())
    assert samples.ids.shape == (32, 512) and samples.ids.dtype == np.int32
    assert len(np.unique(samples.ids)) > 100
    assert len({row.tobytes() for row in samples.ids}) == 32


def test_the_hash_is_of_exactly_these_ids(tiny: Tiny) -> None:
    recipe = CalibrationRecipe(samples=4, length=64)
    first, again = load_calibration(recipe, tiny()), load_calibration(recipe, tiny(arch="llama"))
    assert first.sha256 == again.sha256  # the same tokenizer: the model does not matter
    for other in ({"seed": 1}, {"samples": 5}, {"length": 65}, {"chat_template": True}):
        assert load_calibration(recipe.model_copy(update=other), tiny()).sha256 != first.sha256
    changed = first.ids.copy()
    changed[3, 63] += 1
    assert type(first)(changed).sha256 != first.sha256
    assert type(first)(first.ids.reshape(8, 32)).sha256 != first.sha256


def test_more_samples_begin_with_the_fewer(tiny: Tiny) -> None:
    assert np.array_equal(load(tiny, samples=8)[:4], load(tiny, samples=4))


def test_the_seed_draws_other_documents(tiny: Tiny, tmp_path: Path) -> None:
    data = tmp_path / "lines.jsonl"
    data.write_text("".join(json.dumps({"text": f"document number {n}"}) + "\n" for n in range(200)))
    texts = {text_of(load(tiny, data=str(data), seed=seed), tiny()) for seed in range(4)}
    assert len(texts) == 4


def test_a_text_file_is_cut_where_two_lines_are_blank(tiny: Tiny, tmp_path: Path) -> None:
    data = tmp_path / "own.txt"
    data.write_text("first\n\npart\n\n\nsecond part\n\n\n\n\n")
    assert read_documents(data, "text", "x") == ["first\n\npart", "second part"]
    data.write_text("\n\n\n".join(["alpha beta gamma"] * 100))
    assert "alpha beta gamma\n\nalpha" in text_of(load(tiny, data=str(data)), tiny())


def test_another_field_of_jsonl_and_separators_inside_texts(tiny: Tiny, tmp_path: Path) -> None:
    data = tmp_path / "own.jsonl"
    line = json.dumps({"id": 1, "body": "one \u2028 two \x85 three"}, ensure_ascii=False)
    data.write_text("\n" + (line + "\n") * 50, encoding="utf-8")
    assert "one \u2028 two" in text_of(load(tiny, data=str(data), field="body"), tiny())


def test_fewer_samples_than_asked_says_how_many_there_are(tiny: Tiny, tmp_path: Path) -> None:
    data = tmp_path / "short.txt"
    data.write_text("0123456789 " * 20)
    tokens = len(Tokenizer.from_file(str(tiny() / "tokenizer.json")).encode("0123456789 " * 20 + "\n\n").ids)
    available = tokens // 64
    error = refused(
        tiny,
        "calibration-too-small",
        "short.txt",
        f"gives {available} samples of 64",
        "4 are asked",
        data=str(data),
    )
    assert f"at most {available} samples" in error.hint
    assert load(tiny, data=str(data), samples=available).shape == (available, 64)
    refused(tiny, "calibration-too-small", "the built-in text", "100 are asked", samples=100, length=8192)


def test_data_that_cannot_be_used(tiny: Tiny, tmp_path: Path) -> None:
    def file(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    where = "quantization.calibration.data"
    refused(tiny, "calibration-missing", where, "nowhere.txt", data=str(tmp_path / "nowhere.txt"))
    refused(tiny, "calibration-missing", where, data=str(shutil.copytree(tiny(), tmp_path / "folder.txt")))
    refused(tiny, "calibration-format", "neither .txt nor .jsonl", data=file("x.parquet", b"PAR1"))
    refused(tiny, "calibration-format", "not UTF-8 at byte 2", data=file("x.txt", b"ab\xff"))
    refused(tiny, "calibration-too-small", "gives 0 samples", data=file("empty.txt", b"\n\n"))
    refused(tiny, "calibration-format", "line 2", "not JSON", data=file("a.jsonl", b'{"text":"a"}\n{'))
    refused(tiny, "calibration-format", "line 1", data=file("b.jsonl", b"[" * 100_000))
    error = refused(tiny, "calibration-format", "line 1", "'text'", data=file("c.jsonl", b'{"body":"a"}'))
    assert "body" in error.hint
    refused(tiny, "calibration-format", "line 1", data=file("d.jsonl", b'{"text":5}'))
    refused(tiny, "calibration-format", "line 1", data=file("e.jsonl", b'{"text":[{"role":"user"}]}'))
    refused(tiny, "calibration-format", "line 1", data=file("f.jsonl", b"7"))


def test_the_chat_template_wraps_texts_and_conversations(tiny: Tiny, tmp_path: Path) -> None:
    data = tmp_path / "chat.jsonl"
    turns = [{"role": "user", "content": "Is <|im_end|> text?"}, {"role": "assistant", "content": "Yes."}]
    data.write_text((json.dumps({"text": turns}) + "\n") * 40)
    ids = load(tiny, data=str(data), chat_template=True)
    tokenizer = Tokenizer.from_file(str(tiny() / "tokenizer.json"))
    start, end = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")
    assert start in ids
    # Two turns and the opened answer: three starts for two ends. A control token in a text is only text.
    stream = ids.ravel().tolist()
    conversation = stream[
        : stream.index(start, 1 + stream.index(start, 1 + stream.index(start, 1 + stream.index(start))))
    ]
    assert conversation.count(start) == 3 and conversation.count(end) == 2
    plain = load(tiny, data=str(data))
    assert "Is <|im_end|> text?\nYes." in str(
        tokenizer.decode(plain.ravel().tolist(), skip_special_tokens=False)
    )


def test_a_chat_template_that_is_not_there(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny(), tmp_path / "plain"))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(RecipeError) as caught:
        load_calibration(CalibrationRecipe(samples=1, length=16, chat_template=True), folder)
    assert "quantization.calibration.chat_template" in caught.value.message
    assert "false" in caught.value.hint


def test_every_sample_begins_with_the_tokenizers_own_beginning(tiny: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny(), tmp_path / "with-bos"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = load_calibration(CalibrationRecipe(samples=4, length=64), folder).ids
    assert ids.shape == (4, 64)
    assert (ids[:, 0] == tokenizer.token_to_id("<|endoftext|>")).all()
    assert (ids[:, 1:] != tokenizer.token_to_id("<|endoftext|>")).all()


def test_verification_reads_text_that_calibration_has_not_seen(tiny: Tiny) -> None:
    judged = text_of(load_held_out(VerifyRecipe(samples=4, length=128), tiny()).ids, tiny())
    seen = text_of(load(tiny, samples=64, length=512), tiny())
    assert judged.startswith("The post office on the island")
    assert not any(line in seen for line in judged.split("\n") if len(line) > 40)
    assert load_held_out(VerifyRecipe(samples=64, length=512), tiny()).ids.shape == (64, 512)
    with pytest.raises(RecipeError) as caught:
        load_held_out(VerifyRecipe(samples=1024, length=8192), tiny())
    assert "verify.samples" in caught.value.message
