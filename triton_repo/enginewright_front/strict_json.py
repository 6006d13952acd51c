"""JSON from strangers: bounded, without duplicate keys, and never an exception other than InvalidRequest."""

from __future__ import annotations

import json
from typing import Any

from enginewright_front.refusal import InvalidRequest


def parse_json(field: str, text: str) -> Any:
    """The value of the JSON `text` of input `field`. Raises InvalidRequest: not JSON, too deep, key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise InvalidRequest(field, f"has the key {key[:40]!a} twice", hint="give each key once")
                seen.add(key)
        return made

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise InvalidRequest(field, "is nested too deeply", hint="send a flat structure") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            field, f"is not JSON: {error.msg} at character {error.pos}", hint="send valid JSON"
        ) from None
    except ValueError:
        # Python refuses integers of more than 4300 digits here.
        raise InvalidRequest(field, "holds a number that is too long", hint="send shorter numbers") from None
