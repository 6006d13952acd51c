"""The process between `TritonServer` and tritonserver: whatever happens to either, nothing is left behind.

    TritonServer ──stdin──▶ keeper ──▶ tritonserver ──▶ Python stubs
                 ◀─stdout──

It ends the server when its standard input closes, which also happens when the process that started it is
killed. It is the reaper of orphans (`PR_SET_CHILD_SUBREAPER`): when tritonserver dies first, its stubs become
children of the keeper, which ends them and removes their shared memory. When the keeper itself is killed, the
kernel kills tritonserver, and `TritonServer.stop` ends the stubs. (`PR_SET_PDEATHSIG` in TritonServer instead
would kill the server as soon as the *thread* that started it ends, and would leave stubs and shared memory.)

Run as a file by `python -I keeper.py`, so it imports nothing but the standard library.
Standard input: a line of JSON with its orders: command, log (a file), prefix (of shared memory), grace
(seconds to exit in), folder (removed when the starter is gone). Then `t` or its end asks the server to exit,
`k` kills it.
Standard output: the server's pid, at its end its return code as `subprocess` gives it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["end_models", "model_processes", "remove_shared_memory"]

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_TICK = 0.05
_DESCRIPTORS = 65_536
_SHARED_MEMORY = Path("/dev/shm")
_STUB = "triton_python_backend_stub"


def remove_shared_memory(prefix: str) -> None:
    """Remove the shared memory whose names begin with `prefix`. Raises ValueError for an empty one."""
    if not prefix:
        raise ValueError("an empty prefix names every region of the machine")
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        with suppress(OSError):
            region.unlink()


def model_processes(prefix: str) -> list[int]:
    """The ids of the processes that run Python models with shared memory of `prefix`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            program, *words = os.fsdecode((process / "cmdline").read_bytes()).split("\0")
            if Path(program).name == _STUB and any(word.startswith(prefix) for word in words):
                found.append(int(process.name))
    return found


def end_models(prefix: str) -> None:
    """Kill the model processes with shared memory of `prefix`: they outlive a server that was killed."""
    for pid in model_processes(prefix):
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _main() -> None:
    orders = json.loads(_read_line())
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _allow_connections()
    with open(orders["log"], "ab") as log:  # noqa: PTH123
        server = subprocess.Popen(
            orders["command"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
        )
    _say(server.pid)
    _watch(server, parent, orders["grace"])
    _end_orphans()
    remove_shared_memory(orders["prefix"])
    if os.getppid() != parent:  # nobody is left to do it, or to read the log
        shutil.rmtree(orders["folder"], ignore_errors=True)
    _say(server.returncode)


def _allow_connections() -> None:
    """Each connection is a descriptor, and many systems allow 1,024 unless more is asked for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _read_line() -> bytes:
    """The first line of standard input, and not a byte more. Empty input ends this process."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            sys.exit(0)
        line += piece
    return line


def _watch(server: subprocess.Popen[bytes], parent: int, grace: float) -> None:
    """Until the server has ended, by itself or because it was asked to."""
    deadline: float | None = None
    listening = True
    signal.signal(signal.SIGTERM, lambda number, frame: server.terminate())
    while server.poll() is None:
        order = _order(_TICK) if listening else None
        if not listening:
            with suppress(subprocess.TimeoutExpired):
                server.wait(_TICK)
        if order == b"k" or (deadline is not None and time.monotonic() > deadline):
            server.kill()
        elif deadline is None and (order in (b"t", b"") or os.getppid() != parent):
            server.terminate()
            deadline = time.monotonic() + grace
        listening = listening and order != b""


def _order(seconds: float) -> bytes | None:
    """The next byte of standard input, b"" at its end, None when nothing came."""
    ready, _, _ = select.select([0], [], [], seconds)
    return os.read(0, 1) if ready else None


def _end_orphans() -> None:
    with suppress(ChildProcessError):
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                for child in _children():
                    os.kill(child, signal.SIGKILL)
                time.sleep(0.005)


def _children() -> list[int]:
    own = str(os.getpid())
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # "pid (name) state ppid ..."; a name may contain anything, so count from its end.
            if stat.read_text().rpartition(")")[2].split()[1] == own:
                found.append(int(stat.parent.name))
    return found


def _say(number: int) -> None:
    with suppress(OSError):  # whoever started this may be gone
        print(number, flush=True)


if __name__ == "__main__":
    _main()
