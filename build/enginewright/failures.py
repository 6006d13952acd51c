"""What the machine did to a stage - disk, memory, a missing package - as errors that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from enginewright_errors import EnginewrightError, StageFailed, UsageError

from enginewright.machine import free_disk
from enginewright.units import format_bytes

__all__ = ["explained"]

# Libraries written in Rust and C++ pass the system's words on, not its number.
_DISK_FULL = ("No space left on device", "os error 28", "Disk quota exceeded", "File too large")
_NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "std::bad_alloc", "Failed to allocate memory")


@contextmanager
def explained(stage: str, folder: Path) -> Iterator[None]:
    """Turn what the machine did to `stage`, which writes to `folder`, into errors of our tree.

    What is not recognised passes unchanged: it is a bug, and its traceback is wanted.
    """
    try:
        yield
    except EnginewrightError:
        raise
    except Exception as error:
        known = _explain(error, stage, folder)
        if known is None:
            raise
        raise known from error


def _explain(error: Exception, stage: str, folder: Path) -> EnginewrightError | None:
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("enginewright"):
        return UsageError(
            f"{stage} needs the Python package {error.name}, which is not installed",
            code="missing-extra",
            hint="pip install 'enginewright[cpu]'",
        )
    for link in _chain(error):
        text = str(link)
        number = link.errno if isinstance(link, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(words in text for words in _DISK_FULL):
            return StageFailed(
                f"{stage}: the disk of {folder} is full ({format_bytes(free_disk(folder))} free)",
                code="disk-full",
                hint="free some (`--plan` shows how much each stage writes), or use another disk: "
                "--output for the result, ENGINEWRIGHT_CACHE for the rest",
            )
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StageFailed(
                f"{stage}: {getattr(link, 'filename', None) or folder} cannot be written: {link}",
                code="not-writable",
                hint="check the permissions, or use other folders: --output and ENGINEWRIGHT_CACHE",
            )
        if isinstance(link, MemoryError) or any(words in text for words in _NO_MEMORY):
            return StageFailed(
                f"{stage}: out of memory",
                code="out-of-memory",
                hint="`--plan` shows what each stage needs; close other programs, or lower the sizes",
            )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
