"""A checkpoint's chat template, rendered as transformers does, in a sandbox.

Same environment as `transformers.utils.chat_template_utils`: trim_blocks and lstrip_blocks, loop controls,
the `generation` block, `raise_exception`, `strftime_now`, and a `tojson` that escapes nothing for HTML. A
caller has no way to set `add_generation_prompt`, `tools` or any other variable of the template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from enginewright_errors import CheckpointError
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from enginewright_front.messages import Message
from enginewright_front.refusal import InvalidRequest


class ChatTemplate:
    """`render(messages)` -> the prompt, ending where the assistant's answer begins."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """special_tokens: `bos_token` and the like, as the template may name them. Raises CheckpointError."""
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except (jinja2.TemplateError, SyntaxError, RecursionError) as error:  # the latter: nested too deeply
            raise CheckpointError(
                f"the chat template does not parse: {error}",
                code="chat-template",
                hint="correct chat_template.jinja or tokenizer_config.json in the checkpoint",
            ) from error

    def render(self, messages: Sequence[Message]) -> str:
        """The text of the conversation. Raises InvalidRequest with what the template says against it."""
        try:
            text = self._template.render(
                messages=[{"role": message.role, "content": message.content} for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
            )
            text.encode()  # no tokenizer takes a lone surrogate
        except Exception as error:  # a template is a program: it may recurse, or fill the memory
            raise InvalidRequest(
                "messages",
                f"do not fit the model's chat template: {str(error) or type(error).__name__}",
                hint="check the order of the roles",
            ) from error
        return text


def read_chat_template(checkpoint: Path) -> ChatTemplate | None:
    """The template in `chat_template.jinja`, else in `tokenizer_config.json`; None without one.

    Raises CheckpointError for a file that is not UTF-8, not JSON, or whose template does not parse.
    """
    config = _read_json(checkpoint / "tokenizer_config.json")
    source: Any = config.get("chat_template")
    file = checkpoint / "chat_template.jinja"
    if file.exists():
        source = _read_text(file)
    if isinstance(source, list):
        named = {item.get("name"): item.get("template") for item in source if isinstance(item, dict)}
        source = named.get("default")
    return ChatTemplate(source, special_tokens(config)) if isinstance(source, str) else None


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`{"bos_token": "<s>", ...}` of a tokenizer_config.json, where a token may be written as an object."""
    found = {}
    for name in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        token = config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            found[name] = text
    return found


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks what the assistant said; here it only passes through."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(
            line
        )


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        data = json.loads(_read_text(path))
    except ValueError as error:
        raise CheckpointError(
            f"{path}: is not JSON ({error})", code="tokenizer-config", hint="correct it"
        ) from error
    return data if isinstance(data, dict) else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path}: is not UTF-8 ({error.reason} at byte {error.start})",
            code="tokenizer-config",
            hint="convert it",
        ) from error
