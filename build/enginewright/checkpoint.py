"""Open a source checkpoint: what can be wrong with it is found here, before anything heavy starts.

Only headers and JSON are read, so a sharded 32B checkpoint opens in well under a second. Nothing here imports
torch or transformers, and no code that lies in the folder is ever imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginewright_errors import CheckpointError
from enginewright_front.chat_template import read_chat_template
from enginewright_front.generation_defaults import generation_defaults
from enginewright_model import ModelSpec, read_json_object, read_model_spec

from enginewright.expected_tensors import expected_tensors
from enginewright.safetensors_header import TensorEntry
from enginewright.weight_files import find_weight_files, require_inside

__all__ = ["TEXT_FILES", "Checkpoint", "check_config", "open_checkpoint", "source_spec"]

# What describes text and generation; copied beside the quantized weights when present.
TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
WEIGHT_DTYPES = ("F32", "F16", "BF16")
# A 150k-entry tokenizer is about 11 MB.
MAX_TOKENIZER_BYTES = 128 << 20
# Tensors that old writers stored and every reader recomputes.
IGNORED_SUFFIX = ".rotary_emb.inv_freq"
_TRANSFORMERS_THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked source checkpoint.

    `files` are all files that the build depends on, weights included, sorted by name: hash these and no
    others. `tensors` maps each tensor to its file and extent.
    """

    folder: Path
    config: Mapping[str, Any]
    spec: ModelSpec
    files: tuple[Path, ...]
    weight_files: tuple[Path, ...]
    tensors: Mapping[str, tuple[Path, TensorEntry]]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.end - entry.start for _, entry in self.tensors.values())

    @property
    def num_parameters(self) -> int:
        """Elements of the model's tensors; a tied embedding counts once."""
        return sum(math.prod(shape) for shape in expected_tensors(self.spec).values())

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be turned into a prompt."""
        if (self.folder / "chat_template.jinja").exists():
            return True
        config = self.folder / "tokenizer_config.json"
        return config.exists() and bool(
            read_json_object(config, limit=MAX_TOKENIZER_BYTES).get("chat_template")
        )


def open_checkpoint(folder: Path) -> Checkpoint:
    """Check the Hugging Face checkpoint in `folder` and describe it.

    Raises:
        CheckpointError: the first thing found wrong, with the file or field, and what to do about it.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist",
            code="checkpoint-not-found",
            hint="name a folder with config.json, safetensors and tokenizer.json, or a hub id (org/name)",
        )
    config, spec = _read_config(folder)
    weights = find_weight_files(folder)
    _check_tensors(spec, weights.tensors)
    _check_tokenizer(folder, spec)
    text = [folder / name for name in TEXT_FILES if (folder / name).exists()]
    for path in text:
        require_inside(folder, path)
    indexes = [weights.index] if weights.index else []
    files = sorted([folder / "config.json", *text, *indexes, *weights.files])
    return Checkpoint(folder, config, spec, tuple(files), weights.files, weights.tensors)


def check_config(folder: Path) -> ModelSpec:
    """The dimensions, from config.json alone: for a checkpoint without its weights. Raises as above."""
    return _read_config(folder)[1]


def _read_config(folder: Path) -> tuple[dict[str, Any], ModelSpec]:
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(
            f"{folder} has no config.json",
            code="config-missing",
            hint="name the folder that holds the checkpoint itself",
        )
    require_inside(folder, path)
    config = read_json_object(path)
    _refuse_code(path, config)
    for name in ("quantization_config", "compression_config"):
        if config.get(name) is not None:
            raise _already_quantized(f"config.json has a {name}")
    if (folder / "hf_quant_config.json").exists():
        raise _already_quantized(f"{folder} has a hf_quant_config.json")
    return config, source_spec(config)


def source_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a source checkpoint. The first two Llamas name no rope_theta and mean transformers' own.

    The exported checkpoint names it. Raises CheckpointError.
    """
    return read_model_spec(config, default_theta=_TRANSFORMERS_THETA)


def _refuse_code(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("auto_map"):
        raise CheckpointError(
            f"{path.name}: auto_map asks for Python code of the checkpoint to be run",
            code="remote-code",
            hint="code from a checkpoint is never run; use a model that transformers has built in",
        )


def _check_tensors(spec: ModelSpec, tensors: Mapping[str, tuple[Path, TensorEntry]]) -> None:
    expected = expected_tensors(spec)
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise CheckpointError(
            f"the weights lack {missing[0]}{_and_more(missing)}, which config.json asks for",
            code="tensor-missing",
            hint="config.json and weights do not belong together, or the download is not complete",
        )
    for name, (path, entry) in tensors.items():
        if entry.dtype not in WEIGHT_DTYPES:
            raise _already_quantized(f"{path.name}: {name} is stored as {entry.dtype}")
        shape = expected.get(name, entry.shape)
        if entry.shape != shape:
            raise CheckpointError(
                f"{path.name}: {name} has the shape {list(entry.shape)}, config.json asks for {list(shape)}",
                code="tensor-shape",
                hint="config.json and weights do not belong together",
            )
    # A tied checkpoint may still carry its lm_head; it is the embedding again.
    known = (*expected, "lm_head.weight")
    extra = [name for name in tensors if name not in known and not name.endswith(IGNORED_SUFFIX)]
    if extra:
        raise CheckpointError(
            f"the weights hold {extra[0]}{_and_more(extra)}, which a {spec.architecture} model does not have",
            code="tensor-unknown",
            hint="adapters have to be merged first; other variants of the architecture are not supported",
        )


def _check_tokenizer(folder: Path, spec: ModelSpec) -> None:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise CheckpointError(
            f"{folder} has no tokenizer.json",
            code="tokenizer-missing",
            hint="download it with the weights; from an older format, transformers' "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes it",
        )
    require_inside(folder, path)
    tokenizer = read_json_object(path, limit=MAX_TOKENIZER_BYTES)
    top = _highest_token(tokenizer)
    if top is None:
        raise CheckpointError(
            "tokenizer.json has no model.vocab",
            code="tokenizer-invalid",
            hint="download tokenizer.json again",
        )
    if top >= spec.vocab_size:
        raise CheckpointError(
            f"tokenizer.json has the token id {top}, but config.json: vocab_size is {spec.vocab_size}",
            code="tokenizer-invalid",
            hint="use the tokenizer that was published with these weights",
        )
    for name in ("tokenizer_config.json", "generation_config.json"):
        if (folder / name).exists():
            require_inside(folder, folder / name)
            _refuse_code(folder / name, read_json_object(folder / name, limit=MAX_TOKENIZER_BYTES))
    # What the packaged model will read, now rather than after hours of quantization.
    read_chat_template(folder)
    generation_defaults(folder)


def _highest_token(tokenizer: Mapping[str, Any]) -> int | None:
    """The highest token id of a tokenizer.json, whose model.vocab is a map, or in Unigram a list."""
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids: list[Any] = []
    if isinstance(vocab, dict):
        ids += vocab.values()
    elif isinstance(vocab, list):
        ids += range(len(vocab))
    added = tokenizer.get("added_tokens")
    if isinstance(added, list):
        ids += [token.get("id") for token in added if isinstance(token, dict)]
    numbers = [value for value in ids if type(value) is int]
    return max(numbers) if numbers else None


def _already_quantized(evidence: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint is quantized already: {evidence}",
        code="already-quantized",
        hint="start from the BF16, FP16 or FP32 checkpoint: quantizing twice loses accuracy twice",
    )


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
