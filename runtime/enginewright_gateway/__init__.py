"""An OpenAI-compatible door in front of a Triton: `/v1/chat/completions`, `/v1/completions`, `/v1/models`.

    import uvicorn
    from enginewright_client import AsyncTritonClient
    from enginewright_gateway import create_app

    uvicorn.run(create_app(AsyncTritonClient("127.0.0.1:8001")), port=8080)

It translates and nothing else: limits, templates, sampling defaults and queues are the server's. Needs the
extra `gateway` (FastAPI and uvicorn).
"""

from __future__ import annotations

from enginewright_gateway.app import create_app

__all__ = ["create_app"]
