"""One server process under its keeper: started, watched and ended, with nothing left behind."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from enginewright_serve import keeper
from enginewright_serve.failure_reason import failure_reason

__all__ = ["TritonProcess"]


class TritonProcess:
    """Runs `command`; everything it starts ends with it.

    log: the file that its output is appended to. folder: removed by the keeper when nobody else is left to do
    it. prefix: of the names of its shared memory. grace: seconds it has to exit in.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        log: Path,
        folder: Path,
        prefix: str,
        grace: float,
    ) -> None:
        self._log, self._prefix = log, prefix
        self._said = b""
        orders = {
            "command": list(command),
            "log": str(log),
            "folder": str(folder),
            "prefix": prefix,
            "grace": grace,
        }
        self._keeper: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-I", keeper.__file__, json.dumps(orders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,  # a Ctrl-C in the terminal is for us, who then end the server in order
        )

    @property
    def pid(self) -> int | None:
        """The process id of the command, once it was started."""
        first = self._said.split()
        return int(first[0]) if first else None

    def ended(self, seconds: float) -> bool:
        """Whether the command has ended; waits up to `seconds` for it."""
        if self._keeper is None or self._keeper.stdout is None:
            return True
        out = self._keeper.stdout.fileno()
        if select.select([out], [], [], seconds)[0]:
            piece = os.read(out, 64)
            self._said += piece
            return not piece or self._said.count(b"\n") > 1
        return False

    def reason(self) -> str:
        """Why the command ended, as its log or its exit code tells."""
        said = self._said.split()
        reason = failure_reason(self._log.read_bytes())
        if not reason and len(said) > 1:
            code = int(said[1])
            reason = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return reason

    def stop(self, *, kill: bool = False) -> None:
        """End it, at once with `kill`. Without effect after the first time; may be called again when
        interrupted."""
        process = self._keeper
        if process is None or process.stdin is None or process.stdout is None:
            return
        with suppress(BrokenPipeError):  # the keeper has ended
            os.write(process.stdin.fileno(), b"k" if kill else b"t")
        process.wait()
        process.stdin.close()
        process.stdout.close()
        if process.returncode != 0:  # the keeper itself was killed
            keeper.end_stubs(self._prefix)
            keeper.remove_shared_memory(self._prefix)
        self._keeper = None
