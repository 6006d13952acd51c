"""Becomes a program whose arguments hold secrets, and takes them out of the process table again.

    python -I sealed_start.py tritonserver ... --grpc-restricted-protocol=trace:key=@ENGINEWRIGHT_ADMIN_KEY@

Triton takes its keys as arguments and in no other way, and anybody on the machine can read /proc/PID/cmdline.
Each @ENGINEWRIGHT_...@ stands for a variable of the environment, which the program does not get. A child
overwrites the values in the program's memory when it has copied them, a quarter of a second after its start;
until then they can be seen. Where the kernel does not let the child write there, they stay.

Run as a file, in NVIDIA's container too, so it imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_PLACE = re.compile("@(ENGINEWRIGHT_[A-Z_]+)@")
_PR_SET_PTRACER = 0x59616D61
_START_SECONDS, _TICK, _PARSE_SECONDS = 60.0, 0.005, 0.2


def _main() -> None:
    words = sys.argv[1:]
    names = {name for word in words for name in _PLACE.findall(word)}
    missing = sorted(names - os.environ.keys())
    if missing:
        sys.exit(f"sealed_start: {missing[0]} is not set")
    secrets = {name: os.environ.pop(name) for name in names}
    if secrets:
        _fork_wiper(secrets.values())
    words = [_PLACE.sub(lambda place: secrets[place[1]], word) for word in words]
    try:
        os.execvp(words[0], words)
    except OSError as error:
        sys.exit(f"sealed_start: {words[0]}: {error.strerror}")


def _fork_wiper(secrets: Iterable[str]) -> None:
    """A grandchild wipes, so that the program has no child that it does not know of."""
    server = os.getpid()
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os.write(into, str(os.getpid()).encode())
            with suppress(OSError, ValueError):
                _wipe(server, secrets)
        os._exit(0)
    os.waitpid(child, 0)
    # Where only ancestors may write to a process (Yama), this one is named.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(int(os.read(out, 16))), 0, 0, 0)
    os.close(out)
    os.close(into)


def _wipe(server: int, secrets: Iterable[str]) -> None:
    """Wait until Triton makes threads, which it does with its arguments read, and overwrite the secrets."""
    process = Path("/proc", str(server))
    deadline = time.monotonic() + _START_SECONDS
    while len(list((process / "task").iterdir())) == 1 and time.monotonic() < deadline:
        time.sleep(_TICK)
    time.sleep(_PARSE_SECONDS)
    # "pid (name) state ppid ..."; fields 48 and 49 are the first and the last address of the arguments.
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    with (process / "mem").open("r+b", buffering=0) as memory:
        memory.seek(start)
        arguments = memory.read(end - start)
        for secret in secrets:
            for place in re.finditer(re.escape(secret.encode()), arguments):
                memory.seek(start + place.start())
                memory.write(b"*" * len(secret))


if __name__ == "__main__":
    _main()
