"""What pydantic found wrong in a recipe, in words: where, the value, the bound, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from enginewright_errors import RecipeError
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from enginewright.units import format_bytes
from enginewright.yaml_document import FieldPath

__all__ = ["explain"]

SchemaOf = Callable[[FieldPath], Mapping[str, Any]]


def explain(error: ValidationError, place: Callable[[FieldPath], str], model: type[BaseModel]) -> RecipeError:
    """One error for all that is wrong with a `model`: the first finding in full, the others counted.

    `place` gives the origin of a field, "recipe.yaml:7" or "--group-size".
    """
    schema_of = partial(_schema, model.model_json_schema())
    # An unknown key is often the cause of the other findings ("group-size", so that group_size is missing).
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
    message, hint = _finding(details[0], place, schema_of)
    if len(details) > 1:
        others = sorted({".".join(_path(detail)) for detail in details[1:]})
        hint += f"; also wrong: {', '.join(others)}"
    code = "recipe-unknown-key" if details[0]["type"] == "extra_forbidden" else "recipe-field"
    return RecipeError(message, code=code, hint=hint)


def _finding(detail: ErrorDetails, place: Callable[[FieldPath], str], schema_of: SchemaOf) -> tuple[str, str]:
    path, kind = _path(detail), detail["type"]
    field = ".".join(path) or "the recipe"
    where = f"{place(path)}: {field}"
    value = _shown(detail["input"])
    if kind == "extra_forbidden":
        known = list(schema_of(path[:-1]).get("properties", {}))
        close = difflib.get_close_matches(path[-1].replace("-", "_"), known, n=1, cutoff=0.6)
        if close:
            return f"{where} is not a known field", f"did you mean {'.'.join((*path[:-1], close[0]))}?"
        return f"{where} is not a known field", f"the fields here are {', '.join(known)}"
    if kind == "missing":
        return f"{where} is missing", f"give {field}: {_wanted(schema_of(path))}"
    context = detail.get("ctx", {})
    if "hint" in context:  # a check across fields words itself
        return f"{place(path)}: {detail['msg']}", str(context["hint"])
    if kind in ("size", "target", "text"):
        return f"{where} is {value}: {detail['msg']}", f"set {field} to {_wanted(schema_of(path))}"
    wanted = _wanted(schema_of(path))
    quotes = ", in quotes" if kind == "string_type" and detail["input"] is not None else ""
    return f"{where} is {value}, but must be {wanted}", f"set {field} to {wanted}{quotes}"


def _path(detail: ErrorDetails) -> FieldPath:
    context = detail.get("ctx", {})
    if "field" in context:
        return tuple(str(context["field"]).split("."))
    return tuple(str(part) for part in detail["loc"])


def _schema(recipe: Mapping[str, Any], path: FieldPath) -> Mapping[str, Any]:
    """The JSON schema of the field at `path`; of the innermost known section when it goes beyond."""
    node = recipe
    for part in path:
        node = node.get("properties", {}).get(part, {})
        for choice in node.get("anyOf", ()):
            if choice.get("type") != "null":
                node = {**choice, "nullable": True}
        if "$ref" in node:
            node = recipe["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def _wanted(schema: Mapping[str, Any]) -> str:
    or_null = " or null" if schema.get("nullable") else ""
    if "enum" in schema or "const" in schema:
        values = [str(value) for value in schema.get("enum", [schema.get("const")])]
        listed = values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"
        return listed + or_null
    kind = schema.get("type")
    if kind in ("integer", "number"):
        noun = "a whole number" if kind == "integer" else "a number"
        low = schema["minimum"] if "minimum" in schema else schema["exclusiveMinimum"]
        high = schema["maximum"]
        if schema.get("format") == "bytes":
            return f"a size from {format_bytes(low)} to {format_bytes(high)}{or_null}"
        above = "above" if "exclusiveMinimum" in schema else "from"
        return f"{noun} {above} {low} to {high}{or_null}"
    if kind == "string":
        if "pattern" in schema:
            return f"text that matches {schema['pattern']}{or_null}"
        return f"text of {schema.get('minLength', 0)} to {schema.get('maxLength')} characters{or_null}"
    if kind == "boolean":
        return "true or false"
    return f"a section with {', '.join(schema.get('properties', {}))}{or_null}"


def _shown(value: Any) -> str:
    text = repr(value) if value is not None else "null"
    return text if len(text) <= 80 else f"{text[:77]}..."
