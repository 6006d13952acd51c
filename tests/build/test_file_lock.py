"""Locks: one holder at a time, known by its process id, free again however that process ends."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from enginewright.file_lock import FileLock


def test_one_exclusive_holder_who_is_named(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "deep" / "lock"), FileLock(tmp_path / "deep" / "lock")
    assert first.acquire()
    assert not second.acquire(wait=False)
    assert second.owner() == f"process {os.getpid()}"
    first.release()
    assert second.acquire(wait=False)
    second.release()
    assert list((tmp_path / "deep").iterdir()) == []
    assert second.owner() == "another process"


def test_readers_share_and_keep_a_writer_out(tmp_path: Path) -> None:
    writer, reader, other = (FileLock(tmp_path / "lock") for _ in range(3))
    assert writer.acquire()
    writer.share()
    assert reader.acquire(exclusive=False, wait=False)
    assert not other.acquire(wait=False)
    writer.release()
    assert not other.acquire(wait=False)
    reader.release()
    assert other.acquire(wait=False)
    other.release()


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        FileLock(tmp_path / "lock").acquire()
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    lock = FileLock(tmp_path / "lock")
    assert not lock.acquire(wait=False)
    assert lock.owner() == f"process {child}"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert lock.acquire(wait=False)
    lock.release()
    os.close(read)
    os.close(write)


def test_waiters_never_hold_it_together(tmp_path: Path) -> None:
    """Holders remove the file; a waiter that wakes up on the removed file must not count itself a holder."""
    inside, worst = 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, worst
        for _ in range(100):
            with FileLock(tmp_path / "lock"):
                with guard:
                    inside += 1
                    worst = max(worst, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == 1
    assert list(tmp_path.iterdir()) == []
