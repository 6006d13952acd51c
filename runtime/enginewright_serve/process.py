"""One tritonserver process under its keeper: started, watched and ended, with nothing left behind."""

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
from enginewright_serve.launcher_failure import launcher_failure

__all__ = ["TritonProcess"]

_KEEPER_SECONDS = 2.0  # from the end of tritonserver to its keeper's word, once it has ended what is left


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
        self._log_start = log.stat().st_size
        self._said = b""
        self._watched: dict[int, int] = {}  # pidfd: pid
        orders = {
            "command": list(command),
            "log": str(log),
            "folder": str(folder),
            "prefix": prefix,
            "grace": grace,
        }
        self._keeper: subprocess.Popen[bytes] | None = subprocess.Popen(
            [sys.executable, "-I", keeper.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,  # a Ctrl-C in the terminal is for us, who then end the server in order
        )
        self._tell(json.dumps(orders).encode() + b"\n")

    @property
    def pid(self) -> int | None:
        """The process id of tritonserver, once it was started."""
        first = self._said.split()
        return int(first[0]) if first else None

    def watch_models(self) -> None:
        """From now on `trouble` notices the end of a model process, which Triton itself does not act on."""
        for pid in (self.pid, *keeper.model_processes(self._prefix)):
            if pid is not None:
                with suppress(OSError):
                    self._watched[os.pidfd_open(pid)] = pid

    def ended(self, seconds: float) -> bool:
        """Whether tritonserver has ended; waits up to `seconds` for it."""
        if self._keeper is None or self._keeper.stdout is None:
            return True
        out = self._keeper.stdout.fileno()
        if select.select([out], [], [], seconds)[0]:
            piece = os.read(out, 64)
            self._said += piece
            return not piece or self._said.count(b"\n") > 1
        return False

    def trouble(self, seconds: float) -> str | None:
        """What ended, tritonserver or a model process, in one line; waits up to `seconds` for it.

        A model process that was killed shows as ended at once, though Triton goes on to answer "ready" and
        leaves its requests without an answer.
        """
        if self._keeper is None or self._keeper.stdout is None:
            return "the server does not run"
        out = self._keeper.stdout.fileno()
        poll = select.poll()
        for descriptor in (out, *self._watched):
            poll.register(descriptor, select.POLLIN)
        signs = [descriptor for descriptor, _ in poll.poll(seconds * 1000)]
        dead = {self._watched[descriptor] for descriptor in signs if descriptor != out}
        # A model process ends with Triton: then Triton is the reason, and its keeper is about to say so.
        if (out in signs or self.pid in dead) and self.ended(_KEEPER_SECONDS):
            return f"the server ended: {self.reason()}"
        return f"the model process {min(dead)} ended" if dead else None

    def reason(self) -> str:
        """Why the server ended, as its log or its exit code tells."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            text = log.read()
        reason = launcher_failure(text) or failure_reason(text)
        said = self._said.split()
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
        self._tell(b"k" if kill else b"t")
        process.wait()
        process.stdin.close()
        process.stdout.close()
        if process.returncode != 0:  # the keeper itself was killed
            keeper.end_models(self._prefix)
            keeper.remove_shared_memory(self._prefix)
        for descriptor in self._watched:
            os.close(descriptor)
        self._watched.clear()
        self._keeper = None

    def _tell(self, order: bytes) -> None:
        if self._keeper is not None and self._keeper.stdin is not None:
            with suppress(BrokenPipeError):  # the keeper has ended
                os.write(self._keeper.stdin.fileno(), order)
