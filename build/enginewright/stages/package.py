"""Engine and checkpoint in, a Triton model repository out."""

from __future__ import annotations

from pathlib import Path

from enginewright.recipe import Recipe

__all__ = ["package"]


def package(engine: Path, checkpoint: Path, out: Path, recipe: Recipe) -> None:
    """Write the repository into the empty folder `out`; the engine's files are hard links."""
    from enginewright_front.repository import write_repository

    write_repository(
        out,
        engine=engine,
        checkpoint=checkpoint,
        name=recipe.name,
        max_queue=recipe.serving.max_queue,
        max_tokens_default=recipe.serving.max_tokens_default,
    )
