"""A program with secrets in its arguments gets them, and nobody else keeps seeing them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from enginewright_serve import sealed_start
from runtime.conftest import eventually

SECRET = "s3cret-of-this-test"
# As Triton does, it reads its arguments, then makes a thread.
PROGRAM = """
import os, sys, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
print(os.getpid(), *sys.argv[1:], "ENGINEWRIGHT_KEY" in os.environ, flush=True)
input()
sys.exit(7)
"""


def sealed(*words: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", sealed_start.__file__, *words],
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_secret_reaches_the_program_and_leaves_the_process_table() -> None:
    words = ("--a=@ENGINEWRIGHT_KEY@", "plain @", "--b=x:@ENGINEWRIGHT_KEY@")
    with sealed(sys.executable, "-c", PROGRAM, *words, ENGINEWRIGHT_KEY=SECRET) as process:
        assert process.stdout is not None
        said = process.stdout.readline().split()
        assert said == [str(process.pid), f"--a={SECRET}", "plain", "@", f"--b=x:{SECRET}", "False"]
        arguments = Path("/proc", str(process.pid), "cmdline")
        eventually(lambda: SECRET not in arguments.read_text(), "everybody sees it")
        wiped = "*" * len(SECRET)
        assert arguments.read_text().split("\0")[-4:-1] == [f"--a={wiped}", "plain @", f"--b=x:{wiped}"]
        children = Path("/proc", str(process.pid), "task", str(process.pid), "children")
        assert children.read_text() == ""
        process.communicate("\n")
    assert process.returncode == 7


def test_what_is_missing_is_named() -> None:
    for words, problem in (
        ((sys.executable, "@ENGINEWRIGHT_ABSENT@"), "ENGINEWRIGHT_ABSENT is not set"),
        (("/nowhere/tritonserver",), "/nowhere/tritonserver: No such file or directory"),
    ):
        with sealed(*words) as process:
            assert problem in process.communicate()[1]
        assert process.returncode == 1
