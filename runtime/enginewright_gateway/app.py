"""The door itself: three routes over one `AsyncTritonClient`."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from enginewright_client import AsyncTritonClient, ModelConfig, RequestError
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from enginewright_gateway.api_error import ApiError, from_request_error
from enginewright_gateway.connection import BodyLimit
from enginewright_gateway.generation import answer_chat, answer_completion
from enginewright_gateway.read_body import read_body
from enginewright_gateway.schema import ChatRequest, CompletionRequest

__all__ = ["create_app"]

_CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody is there to read it, but it stands in the log


def create_app(
    client: AsyncTritonClient, *, api_key: str | None = None, max_body_bytes: int = 16 * 2**20
) -> FastAPI:
    """An ASGI application that answers with the model of `client`, which it closes at its end.

    api_key: what callers have to send as `Authorization: Bearer KEY`; None lets everybody in.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    async def require_key(request: Request) -> None:
        if api_key is None:
            return
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), api_key.encode()):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    async def require_model(name: str) -> ModelConfig:
        config = await client.model_config()
        if name not in _names(config):
            known = " or ".join(_names(config))
            raise ApiError(
                404, f"no model {name} here: ask for {known}", code="model_not_found", param="model"
            )
        return config

    app = FastAPI(title="Enginewright", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    _say_errors_as_openai_does(app)
    guarded = [Depends(require_key)]

    @app.get("/health")
    async def health() -> Response:
        """200 when the model generates a token, 503 with the reason when it does not."""
        state = await client.health()
        body = {"status": "ok"} if state.generates else {"status": "down", "reason": state.problem}
        return JSONResponse(body, 200 if state.generates else 503)

    @app.get("/v1/models", dependencies=guarded)
    async def models() -> dict[str, Any]:
        config = await client.model_config()
        return {"object": "list", "data": [_model(name, config) for name in _names(config)]}

    @app.get("/v1/models/{name:path}", dependencies=guarded)
    async def model(name: str) -> dict[str, Any]:
        return _model(name, await require_model(name))

    @app.post("/v1/chat/completions", dependencies=guarded)
    async def chat(request: Request) -> Response:
        body = await read_body(request, ChatRequest)
        await require_model(body.model)
        return await answer_chat(client, request, body)

    @app.post("/v1/completions", dependencies=guarded)
    async def completions(request: Request) -> Response:
        body = await read_body(request, CompletionRequest)
        await require_model(body.model)
        return await answer_completion(client, request, body)

    return app


def _names(config: ModelConfig) -> tuple[str, ...]:
    """What callers may write as `model`: the recipe's name, and the name in Triton."""
    return tuple(dict.fromkeys(name for name in (config.parameters.get("model"), config.name) if name))


def _model(name: str, config: ModelConfig) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "enginewright",
        "max_model_len": config.max_seq_len,
    }


def _say_errors_as_openai_does(app: FastAPI) -> None:
    def answer(error: ApiError) -> Response:
        return JSONResponse(error.body(), error.status, error.headers())

    @app.exception_handler(ApiError)
    async def own(request: Request, error: ApiError) -> Response:
        return answer(error)

    @app.exception_handler(RequestError)
    async def of_the_client(request: Request, error: RequestError) -> Response:
        return answer(from_request_error(error))

    @app.exception_handler(Exception)
    async def of_this_program(request: Request, error: Exception) -> Response:
        return answer(ApiError(500, "the gateway failed: its log says why", code="internal_error"))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(
            error.status_code, "bad_request"
        )
        return answer(ApiError(error.status_code, f"{request.url.path}: {error.detail}", code=code))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)
