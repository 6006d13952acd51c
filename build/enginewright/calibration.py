"""The texts of a build as token ids: what the quantizer sees of the world, what an engine is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from enginewright_errors import RecipeError, UsageError
from enginewright_front.messages import Message
from enginewright_front.prompt import PromptEncoder, read_tokenizer

from enginewright.recipe import CalibrationRecipe, ReportRecipe, VerifyRecipe
from enginewright.text_samples import Document, TextSamples, pack, read_documents

__all__ = ["load_calibration", "load_held_out"]

Encode = Callable[[Document], Sequence[int]]

_DATA = Path(__file__).with_name("data")
_BUILTIN = _DATA / "calibration.txt"
# Not in the calibration text.
_HELD_OUT = _DATA / "held_out.txt"
_WHERE = "quantization.calibration.data"


def load_calibration(recipe: CalibrationRecipe, checkpoint: Path) -> TextSamples:
    """Token ids [samples, length] of `recipe` for the tokenizer in the folder `checkpoint`.

    The ids depend on the recipe, the data and the tokenizer alone: not on a batch size, nor on the machine.

    Raises:
        RecipeError: data that is missing, malformed or too small, or a chat template that is not there.
        CheckpointError: a tokenizer that cannot be read.
    """
    path = _BUILTIN if recipe.data == "builtin" else Path(recipe.data)
    documents = read_documents(path, recipe.field, _WHERE)
    encode, prefix = (_chat_encoder if recipe.chat_template else _plain_encoder)(checkpoint)
    where = f"{_WHERE}: {'the built-in text' if recipe.data == 'builtin' else path.name}"
    return pack(
        documents,
        encode,
        samples=recipe.samples,
        length=recipe.length,
        seed=recipe.seed,
        prefix=prefix,
        where=where,
    )


def load_held_out(recipe: VerifyRecipe | ReportRecipe, checkpoint: Path) -> TextSamples:
    """Token ids [samples, length] to judge by: a report's own data, else the built-in held-out text.

    Where that is too short, calibration text follows it.

    Raises:
        RecipeError: `recipe` asks for more than there is.
        CheckpointError: a tokenizer that cannot be read.
    """
    if isinstance(recipe, ReportRecipe) and recipe.data != "builtin":
        where = f"report.samples: {Path(recipe.data).name}"
        documents = read_documents(Path(recipe.data), recipe.field, "report.data")
    else:
        section = "report" if isinstance(recipe, ReportRecipe) else "verify"
        where = f"{section}.samples: the built-in text"
        documents = [
            document for path in (_HELD_OUT, _BUILTIN) for document in read_documents(path, "", _WHERE)
        ]
    encode, prefix = _plain_encoder(checkpoint)
    return pack(
        documents,
        encode,
        samples=recipe.samples,
        length=recipe.length,
        seed=None,
        prefix=prefix,
        where=where,
    )


def _plain_encoder(checkpoint: Path) -> tuple[Encode, Sequence[int]]:
    """Texts as they are, and what the tokenizer puts before each (BOS, or nothing)."""
    tokenizer = read_tokenizer(checkpoint)

    def encode(document: Document) -> Sequence[int]:
        text = document if isinstance(document, str) else "\n".join(turn["content"] for turn in document)
        ids: Sequence[int] = tokenizer.encode(text + "\n\n", add_special_tokens=False).ids
        return ids

    return encode, tokenizer.encode("").ids


def _chat_encoder(checkpoint: Path) -> tuple[Encode, Sequence[int]]:
    """A text becomes a user's message, as the server would render it."""
    encoder = PromptEncoder(checkpoint)

    def encode(document: Document) -> Sequence[int]:
        turns = [{"role": "user", "content": document}] if isinstance(document, str) else document
        try:
            return encoder.encode_messages([Message(turn["role"], turn["content"]) for turn in turns])
        except UsageError as error:
            raise RecipeError(
                f"quantization.calibration.chat_template: {error.message}",
                code="calibration-chat-template",
                hint=f"set it to false, or {error.hint}",
            ) from error

    return encode, ()
