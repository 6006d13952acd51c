"""The installed `enginewright` as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from runtime.conftest import WAIT_SECONDS, eventually

ENGINEWRIGHT = Path(sys.executable).with_name("enginewright")


class Command:
    """`enginewright ARGUMENTS`, running; `text()` and `errors()` are what it printed so far."""

    def __init__(self, folder: Path, *arguments: str | Path, given: bytes | None = None) -> None:
        self._out, self._err = folder / "stdout", folder / "stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [ENGINEWRIGHT, *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
                stdout=out,
                stderr=err,
            )
        if given is not None and self.process.stdin is not None:
            self.process.stdin.write(given)
            self.process.stdin.close()

    def text(self) -> str:
        return self._out.read_text()

    def errors(self) -> str:
        return self._err.read_text()

    def prints(self, text: str) -> None:
        """Wait until `text` was printed."""
        eventually(lambda: text in self.text() or self.process.poll() is not None, f"never printed {text!r}")
        assert text in self.text(), self.errors()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def code(self) -> int:
        """Its exit code, when it has ended."""
        return self.process.wait(WAIT_SECONDS)

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
