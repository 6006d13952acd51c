"""`enginewright` on a terminal of its own: what one types and what one sees."""

from __future__ import annotations

import os
import pty
import subprocess
import threading
from contextlib import suppress
from types import TracebackType

from runtime.commands import ENGINEWRIGHT
from runtime.conftest import WAIT_SECONDS, eventually


class Terminal:
    """A running command; `text` is what was shown so far, with its escape sequences."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self._process = subprocess.Popen(
            [ENGINEWRIGHT, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: _take_terminal(),
        )
        os.close(theirs)
        self.text = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @classmethod
    def run(cls, *arguments: str) -> str:
        """All that a command shows which asks nothing."""
        with cls(*arguments) as terminal:
            terminal.code()
            return terminal.text

    def types(self, keys: str) -> None:
        """A carriage return is Enter, \\x03 is Ctrl-C, \\x04 is Ctrl-D."""
        os.write(self._ours, keys.encode())

    def shows(self, text: str) -> None:
        """Wait until `text` is shown after what earlier calls waited for."""
        eventually(lambda: text in self.text[self._seen :] or self._ended, f"never showed {text!r}")
        assert text in self.text[self._seen :], self.text
        self._seen = self.text.index(text, self._seen) + len(text)

    def code(self) -> int:
        """Its exit code, when it has ended."""
        code = self._process.wait(WAIT_SECONDS)
        self._reader.join()
        return code

    _seen = 0
    _ended = False

    def _read(self) -> None:
        shown = b""
        with suppress(OSError):  # the end of a terminal
            while piece := os.read(self._ours, 4096):
                shown += piece
                self.text = shown.decode(errors="ignore").replace("\r\n", "\n")
        self._ended = True

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        os.close(self._ours)


def _take_terminal() -> None:
    """Make standard input the controlling terminal, so that a typed Ctrl-C is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
