"""The GPUs that a command line names."""

from __future__ import annotations

from enginewright_errors import UsageError

__all__ = ["gpu_indices"]


def gpu_indices(given: str | None) -> tuple[int, ...]:
    """Of "0,1": (0, 1), as nvidia-smi counts; of None: (). Raises UsageError for anything else."""
    words = [word.strip() for word in given.split(",")] if given is not None else []
    if not all(word.isascii() and word.isdigit() for word in words) or len(set(words)) != len(words):
        raise UsageError(f"--gpus {given} is not a list of GPUs", code="bad-gpus", hint="write it like 0,1")
    return tuple(map(int, words))
