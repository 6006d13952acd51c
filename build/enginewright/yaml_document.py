"""One YAML document as plain data with each field's line; duplicate keys, tags and aliases are refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from enginewright_errors import RecipeError

__all__ = ["Document", "FieldPath", "parse_yaml", "read_yaml"]

FieldPath = tuple[str, ...]

MAX_BYTES = 1024**2  # a recipe has some forty fields; anything larger is some other file


@dataclass(frozen=True, slots=True)
class Document:
    """`data` as YAML gave it; `lines` maps a field's path to its line, from 1."""

    data: Any
    lines: dict[FieldPath, int]


def read_yaml(file: Path) -> Document:
    """The document in `file`. Raises RecipeError that names the file and the line."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(
            f"{file} cannot be read: {error.strerror}",
            code="recipe-unreadable",
            hint="check the path and its permissions",
        ) from None
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{file} is larger than 1 MiB", code="recipe-too-large", hint="give a YAML recipe")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{file} is not UTF-8 text (byte {error.start})", code="recipe-syntax", hint="give a YAML recipe"
        ) from None
    return parse_yaml(text, str(file))


def parse_yaml(text: str, origin: str) -> Document:
    """The document in `text`; `origin` names it in errors."""
    lines: dict[FieldPath, int] = {}
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        data = None if root is None else _construct(loader, root, (), lines, set(), origin)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(
            f"{origin}{line}: {error.problem or 'not YAML'}",
            code="recipe-syntax",
            hint="correct the YAML there",
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(
            f"{origin}: {reason}", code="recipe-syntax", hint="correct the YAML there"
        ) from None
    except RecursionError:
        raise RecipeError(
            f"{origin} is nested too deeply", code="recipe-syntax", hint="give a recipe"
        ) from None
    return Document(data, lines)


def _construct(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    path: FieldPath,
    lines: dict[FieldPath, int],
    seen: set[int],
    origin: str,
) -> Any:
    line = node.start_mark.line + 1
    if id(node) in seen:
        raise _refused(origin, line, path, "an alias", "write the value out")
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_object(node)
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(loader, item, (*path, str(i)), lines, seen, origin)
            for i, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode) or not node.tag.endswith(":map"):
        raise _refused(origin, line, path, f"the tag {node.tag}", "write plain keys and values")
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise _refused(origin, line, path, "a key that is not a name", "write plain keys and values")
        if key in mapping:
            raise RecipeError(
                f"{origin}:{line}: {key!r} is given twice, first on line {lines[(*path, key)]}",
                code="recipe-duplicate-key",
                hint="remove one of them",
            )
        lines[(*path, key)] = line
        mapping[key] = _construct(loader, value_node, (*path, key), lines, seen, origin)
    return mapping


def _refused(origin: str, line: int, path: FieldPath, what: str, hint: str) -> RecipeError:
    field = f" {'.'.join(path)}" if path else ""
    return RecipeError(f"{origin}:{line}:{field} uses {what}", code="recipe-syntax", hint=hint)
