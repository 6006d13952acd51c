"""The body of a request: JSON in the schema's form, or an error that names the field."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from enginewright_gateway.api_error import ApiError

__all__ = ["read_body"]

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, kind: type[Body]) -> Body:
    """The body of `request` as `kind`. Raises ApiError with status 400 or 415.

    Only as application/json: a web page may send any other type to a gateway on its reader's own machine
    without asking that gateway first.
    """
    content_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError(
            415,
            f"Content-Type is {content_type or 'missing'}; send application/json",
            code="unsupported_media_type",
        )
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0]) from None


def _refusal(first: ErrorDetails) -> ApiError:
    param = ".".join(str(part) for part in first["loc"]) or None
    param = first.get("ctx", {}).get("param", param)
    message = first["msg"] if first["type"] == "unsupported" else f"{param or 'body'}: {first['msg']}"
    return ApiError(400, message, code=first["type"], param=param)
