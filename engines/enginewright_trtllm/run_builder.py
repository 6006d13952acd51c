"""Runs trtllm-build, or a container that does, and follows its output."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from enginewright_errors import StageFailed, UsageError

from enginewright_trtllm.build_output import BuildLog, BuildMemory

__all__ = ["run_builder"]

_PR_SET_PDEATHSIG = 1


def run_builder(
    command: Sequence[str],
    log_file: Path,
    *,
    world_size: int,
    progress: Callable[[float], None],
    env: Mapping[str, str] | None = None,
) -> BuildMemory:
    """Run `command` to its end with its output in `log_file`; `progress` gets the share that is done, 0 to 1.

    env: added to this process's. Whatever ends this function ends the builder and its workers, and so does
    the death of this process. Raises StageFailed with the builder's last error, its likely cause and the log;
    UsageError for a command that cannot be started.
    """
    log = BuildLog(world_size)
    libc = ctypes.CDLL(None)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("w", encoding="utf-8") as kept:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
            )
        except OSError as error:
            raise UsageError(
                f"{command[0]} cannot be started: {error.strerror}",
                code="builder-start",
                hint="check that it is installed and may be executed",
            ) from error
        try:
            for line in process.stdout or ():
                kept.write(line)
                kept.flush()
                log.feed(line)
                progress(log.fraction)
            exit_code = process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout:
                process.stdout.close()
    if exit_code:
        failure = log.failure(exit_code)
        raise StageFailed(
            failure.message, code=failure.code, hint=f"{failure.hint} The whole log is {log_file}"
        )
    return log.memory
