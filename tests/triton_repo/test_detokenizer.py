"""A stream of tokens shows whole characters only; all of it is what the tokenizer makes of all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from enginewright_errors import CheckpointError
from enginewright_front.detokenizer import Detokenizer, TokenTable
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from triton_repo.spelling import SAMPLES, byte_fallback, byte_level

FAMILIES = ("byte_level", "byte_fallback")
texts = st.one_of(
    st.sampled_from(SAMPLES),
    st.text(min_size=1, max_size=40),
    st.lists(st.sampled_from(["👨‍👩‍👧", "é", "日", " ", "a", "\n", "🇫🇷", "<think>"]), min_size=1).map(
        "".join
    ),
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return {"byte_level": byte_level(tmp_path_factory.mktemp("spelling")), "byte_fallback": byte_fallback()}


def deltas(tokenizer: Tokenizer, ids: list[int], cuts: set[int], *, continues: bool = False) -> list[str]:
    """The text of `ids`, fed in pieces that end where `cuts` says."""
    detokenizer = Detokenizer(TokenTable(tokenizer), continues=continues)
    pieces, piece = [], []
    for position, token in enumerate(ids):
        piece.append(token)
        if position in cuts:
            pieces.append(detokenizer.feed(piece))
            piece = []
    return [*pieces, detokenizer.feed(piece), detokenizer.finish()]


@pytest.mark.parametrize("family", FAMILIES)
@given(text=texts, cuts=st.sets(st.integers(0, 60)))
@settings(max_examples=300, deadline=None)
def test_deltas_joined_are_the_full_text(
    tokenizers: dict[str, Tokenizer], family: str, text: str, cuts: set[int]
) -> None:
    tokenizer = tokenizers[family]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert "".join(deltas(tokenizer, ids, cuts)) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", SAMPLES)
def test_no_delta_holds_half_a_character(tokenizers: dict[str, Tokenizer], family: str, text: str) -> None:
    ids = tokenizers[family].encode(text, add_special_tokens=False).ids
    one_by_one = deltas(tokenizers[family], ids, set(range(len(ids))))
    assert not any("\ufffd" in delta for delta in one_by_one)
    assert "".join(one_by_one) == text


@pytest.mark.parametrize("text", SAMPLES)
def test_every_finished_character_is_shown_at_once(tokenizers: dict[str, Tokenizer], text: str) -> None:
    tokenizer = tokenizers["byte_level"]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    detokenizer, shown = Detokenizer(TokenTable(tokenizer)), ""
    for count, token in enumerate(ids, start=1):
        shown += detokenizer.feed((token,))
        assert shown == tokenizer.decode(ids[:count]).rstrip("\ufffd")


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_byte_level_ids_read_as_the_tokenizer_reads_them(
    tokenizers: dict[str, Tokenizer], data: st.DataObject
) -> None:
    """A model may emit bytes that are no text at all, control tokens, and ids that no token has."""
    tokenizer = tokenizers["byte_level"]
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() + 3), max_size=40))
    cuts = data.draw(st.sets(st.integers(0, 40)))
    assert "".join(deltas(tokenizer, ids, cuts)) == tokenizer.decode(ids, skip_special_tokens=True)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_broken_byte_pieces_never_give_invalid_text(
    tokenizers: dict[str, Tokenizer], data: st.DataObject
) -> None:
    tokenizer = tokenizers["byte_fallback"]
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=40))
    whole = "".join(deltas(tokenizer, ids, set()))
    one_by_one = "".join(deltas(tokenizer, ids, set(range(40))))
    assert whole == one_by_one
    whole.encode("utf-8")
    # What is no character costs nothing else: the other characters are those of the full decode, or more.
    kept = [letter for letter in whole if letter != "\ufffd"]
    expected = [letter for letter in tokenizer.decode(ids) if letter != "\ufffd"]
    assert len(kept) >= len(expected)


def test_a_run_of_byte_pieces_is_not_held_back_until_it_ends(tokenizers: dict[str, Tokenizer]) -> None:
    """Tamil with a Llama 2 tokenizer is byte pieces for sentences on end; a user must see it grow."""
    tokenizer = tokenizers["byte_fallback"]
    ids = tokenizer.encode("தமிழ்", add_special_tokens=False).ids
    shown = deltas(tokenizer, ids, set(range(len(ids))))
    assert [text for text in shown if text] == list("தமிழ்")


def test_a_cut_character_ends_as_the_tokenizer_ends_it(tokenizers: dict[str, Tokenizer]) -> None:
    for family, tokenizer in tokenizers.items():
        ids = tokenizer.encode("a😀", add_special_tokens=False).ids[:-1]
        assert "".join(deltas(tokenizer, ids, set())) == tokenizer.decode(ids), family


def test_control_tokens_are_silent_and_reasoning_markers_are_text(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte_level"]
    ids = tokenizer.encode("<think>yes</think><|im_end|>", add_special_tokens=False).ids
    assert "".join(deltas(tokenizer, ids, set())) == "<think>yes</think>"


def test_a_continuation_keeps_the_space_that_an_answer_drops(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte_fallback"]
    ids = tokenizer.encode("Paris", add_special_tokens=False).ids
    assert "".join(deltas(tokenizer, ids, {0})) == "Paris"
    assert "".join(deltas(tokenizer, ids, {0}, continues=True)) == " Paris"


def test_endless_broken_bytes_cost_constant_work_a_token(tokenizers: dict[str, Tokenizer]) -> None:
    """200,000 continuation bytes: decoding a window again for each token would never get there."""
    tokenizer = tokenizers["byte_fallback"]
    detokenizer = Detokenizer(TokenTable(tokenizer))
    token = tokenizer.token_to_id("<0x82>")
    assert sum(len(detokenizer.feed((token,))) for _ in range(200_000)) == 200_000


def test_an_unknown_decoder_is_refused_by_name() -> None:
    tokenizer = Tokenizer(models.WordPiece({"a": 0}))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(CheckpointError, match="WordPiece"):
        TokenTable(tokenizer)


def test_a_strip_that_is_not_a_leading_space_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)])
    with pytest.raises(CheckpointError, match="Strip"):
        TokenTable(tokenizer)
