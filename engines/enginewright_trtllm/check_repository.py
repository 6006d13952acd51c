"""Looks over a rendered model repository, ours or one filled from upstream's templates.

Upstream's traps: a template variable left where no quotes are breaks the load, one left in quotes only warns,
or is taken as a value; the C++ model throws on a wrong gpt_model_type and on three parameters that are not
there; a path that does not exist is only warned about, then both model paths are empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from enginewright_trtllm.finding import Finding, error, warning

__all__ = ["check_repository"]

_BATCHING = ("inflight_fused_batching", "inflight_batching")
_THROWN_WITHOUT = ("tokenizer_dir", "xgrammar_tokenizer_info_path", "guided_decoding_backend")
_SPECULATION = ("medusa_choices", "eagle_choices")
_LOGITS = {"float16": "TYPE_FP16", "float32": "TYPE_FP32"}
_PARAMETER = re.compile(
    r'parameters\s*:?\s*\{\s*key\s*:\s*"([^"]*)"\s*value\s*:?\s*\{\s*string_value\s*:\s*"((?:[^"\\]|\\.)*)"'
)


@dataclass(frozen=True, slots=True)
class _Model:
    """A tensorrtllm model: its name, its config without comments, its parameters."""

    name: str
    text: str
    parameters: Mapping[str, str]


def check_repository(repository: Path, *, mounted_at: str = "/models") -> tuple[Finding, ...]:
    """Findings of every config.pbtxt, and of the engines that the C++ models name.

    mounted_at: where the server sees the repository; gpt_model_path is looked up relative to it.
    """
    findings: list[Finding] = []
    for path in sorted(repository.glob("*/config.pbtxt")):
        text = _without_comments(path.read_text(encoding="utf-8"))
        findings += _variables(path.parent.name, text)
        if re.search(r'^\s*backend\s*:\s*"tensorrtllm"', text, re.MULTILINE):
            model = _Model(path.parent.name, text, dict(_PARAMETER.findall(text)))
            findings += _backend(model)
            findings += _engine(model, repository, PurePosixPath(mounted_at))
    return tuple(findings)


def _without_comments(text: str) -> str:
    return re.sub(r'("(?:[^"\\\n]|\\.)*")|#[^\n]*', lambda match: match[1] or "", text)


def _variables(name: str, text: str) -> Iterator[Finding]:
    for variable in sorted(set(re.findall(r"\$\{[^}]*\}?", text))):
        # A quoted one parses; as the name of a backend it fails even so.
        parses = f'"{variable}"' in text and f'backend: "{variable}"' not in text
        yield error(
            "template-variable",
            "run" if parses else "load",
            f"{name}/config.pbtxt: {variable} is left",
            "a parameter takes it for a value, or warns and uses its default"
            if parses
            else "the config does not parse, or names no backend",
            "Render the repository with enginewright, or fill it in.",
        )


def _backend(model: _Model) -> Iterator[Finding]:
    where, given = f"{model.name}/config.pbtxt", model.parameters
    if given.get("gpt_model_type") not in _BATCHING:
        yield error(
            "batching",
            "load",
            f"{where}: gpt_model_type {given.get('gpt_model_type')!r}",
            "V1 batches without in-flight scheduling, any other name throws",
            "Set inflight_fused_batching.",
        )
    for name in _THROWN_WITHOUT:
        if name not in given:
            yield error(
                "parameter-missing",
                "load",
                f"{where}: {name} is missing",
                "the backend reads it without a default and throws; an empty string is enough",
                f'Add {name} with string_value "".',
            )
    for name in _SPECULATION:
        if given.get(name):
            yield error(
                "speculation",
                "load",
                f"{where}: {name} = {given[name]!r}",
                "any value switches the decoding mode, which an ordinary engine does not have",
                "Leave it empty.",
            )
    if given.get("enable_chunked_context", "").lower() not in ("true", "1"):
        yield warning(
            "chunked-context-off",
            "run",
            f"{where}: enable_chunked_context {given.get('enable_chunked_context')!r}",
            "prompts are limited to max_num_tokens, 8192 by default",
            "Set it to true; the engine needs use_paged_context_fmha.",
        )
    if not re.search(r"decoupled\s*:\s*true", model.text, re.IGNORECASE):
        yield error(
            "decoupled",
            "run",
            f"{where}: the model is not decoupled",
            "requests with streaming = true are refused",
            "Set model_transaction_policy { decoupled: true }.",
        )


def _engine(model: _Model, repository: Path, mounted_at: PurePosixPath) -> Iterator[Finding]:
    where, path = f"{model.name}/config.pbtxt", model.parameters.get("gpt_model_path", "")
    if not PurePosixPath(path).is_absolute():
        yield error(
            "engine-path",
            "load",
            f"{where}: gpt_model_path {path!r} is not absolute",
            "it is looked up from the server's working directory, then left empty with a warning",
            f"Set {mounted_at / model.name / '1' / 'engine'}.",
        )
        return
    if not PurePosixPath(path).is_relative_to(mounted_at):
        return
    folder = repository / PurePosixPath(path).relative_to(mounted_at)
    try:
        config = json.loads((folder / "config.json").read_bytes())
        world_size = config["pretrained_config"]["mapping"]["world_size"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        yield error(
            "engine-missing",
            "load",
            f"{folder / 'config.json'}: {problem}",
            "the backend finds no engine where the config points",
            "Build the engine and package the repository again.",
        )
        return
    missing = [f"rank{n}.engine" for n in range(world_size) if not (folder / f"rank{n}.engine").is_file()]
    if missing:
        yield error(
            "engine-ranks",
            "load",
            f"{folder}: {', '.join(missing)} missing, the engine has {world_size} ranks",
            "world size must be tp x pp, with one engine file a rank",
            "Copy all rank files, or build again.",
        )
    yield from _logits(model, where, config["pretrained_config"])


def _logits(model: _Model, where: str, config: Mapping[str, Any]) -> Iterator[Finding]:
    declared = re.search(r'name\s*:\s*"context_logits"\s*data_type\s*:\s*(\w+)', model.text)
    wanted = _LOGITS.get(str(config.get("logits_dtype")))
    if declared is not None and wanted is not None and declared[1] != wanted:
        yield error(
            "logits-datatype",
            "run",
            f"{where}: context_logits {declared[1]}, the engine has logits_dtype {config['logits_dtype']}",
            "logits are read with the wrong element size",
            f"Set logits_datatype {wanted}.",
        )
