"""A lock between processes on one path. The kernel releases it when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

__all__ = ["FileLock"]


class FileLock:
    """`flock` on a file that is made for it and removed by its last exclusive holder.

    Exclusive holders leave their process id in the file: `owner()` reads it for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._exclusive = False

    def acquire(self, *, exclusive: bool = True, wait: bool = True) -> bool:
        """Take the lock; False if it is held elsewhere and `wait` is off."""
        operation = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, operation)
                if not self._still_named(descriptor):
                    os.close(descriptor)  # its last holder removed the file while we waited
                    continue
                if exclusive:
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            except BlockingIOError:
                os.close(descriptor)
                return False
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor, self._exclusive = descriptor, exclusive
            return True

    def share(self) -> None:
        """Let others read while this one goes on reading. Another writer may come in between."""
        if self._descriptor is not None and self._exclusive:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            self._exclusive = False

    def release(self) -> None:
        """Give the lock up; nothing happens if it is not held."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.path.unlink(missing_ok=True)
        except OSError:
            pass  # others hold or wait for it: the last of them removes the file
        finally:
            os.close(descriptor)

    def owner(self) -> str:
        """The process id of the exclusive holder, or "another process"."""
        try:
            return f"process {int(self.path.read_text())}"
        except (OSError, ValueError):
            return "another process"

    def _still_named(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
