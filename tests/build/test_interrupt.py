"""Ctrl-C and SIGTERM: out within two seconds, with the right code, and no temporary folder left."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from enginewright.interrupt import Interrupted, interruptible
from enginewright.temporary import remove_temporary_folders, temporary_folder


def deaf() -> None:
    """Some minutes inside C, where Python handles no signal."""
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 500_000_000)


def attentive() -> None:
    while True:
        signal.pause()


def interrupted(folder: Path, work: Callable[[], None], number: int) -> tuple[int, float]:
    """Exit code and seconds of a child that `number` hits while it works in a temporary folder."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 99
        sys.unraisablehook = sys.__unraisablehook__  # not pytest's
        try:
            with interruptible(remove_temporary_folders), temporary_folder(folder):
                (folder / "half").write_bytes(b"x")
                os.write(write, b"x")
                work()
        except Interrupted as error:
            status = 128 + error.number
        finally:
            os._exit(status)
    os.read(read, 1)
    os.close(read)
    os.close(write)
    start = time.monotonic()
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - start


class Referent:
    """What a weak reference can be to."""


def swallowing() -> None:
    """Python prints what a weak reference's callback raises, and goes on."""
    referent = Referent()
    reference = weakref.ref(referent, lambda _: time.sleep(60))
    del referent
    assert reference() is None
    time.sleep(60)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("work", [attentive, deaf, swallowing])
def test_a_signal_ends_the_work_in_time(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], work: Callable[[], None], number: int, code: int
) -> None:
    found, seconds = interrupted(tmp_path / "temporary", work, number)
    assert capfd.readouterr().err == ""
    assert found == code
    assert seconds < 10.0
    assert list(tmp_path.iterdir()) == []


def test_without_a_signal_all_is_as_before(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible(remove_temporary_folders):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_temporary_folder_is_empty_and_goes(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "left by a killed process").write_text("x")
    with temporary_folder(tmp_path / "t") as folder:
        assert list(folder.iterdir()) == []
    assert not folder.exists()
