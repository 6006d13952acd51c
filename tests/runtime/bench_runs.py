"""Runs of `enginewright_bench` against the server of known delays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from enginewright_bench import Bench, BenchResult, LineView, Load, find_provenance
from enginewright_bench.observer import Observer
from enginewright_client import AsyncTritonClient, Retry
from runtime.fake_triton import FakeTriton, serving


def run_loads(folder: Path, fake: FakeTriton, loads: Sequence[Load], **options: Any) -> BenchResult:
    """The result of `loads` on `fake`, whose files are in `folder`."""
    return with_bench(folder, fake, lambda bench: bench.run(loads), **options)


def with_bench(
    folder: Path,
    fake: FakeTriton,
    run: Callable[[Bench], Awaitable[BenchResult]],
    *,
    seed: int = 0,
    observer: Observer | None = None,
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> BenchResult:
    """What `run` does with a Bench of `fake`."""

    async def main() -> BenchResult:
        async with serving(fake) as address, AsyncTritonClient(address, retry=Retry(attempts=1)) as client:
            bench = Bench(
                client=client,
                config=await client.model_config(),
                folder=folder,
                observer=observer or LineView(say),
                provenance=find_provenance(seed, None),
                limit=options.pop("limit", "not given"),
                **options,
            )
            return await run(bench)

    return asyncio.run(main())
