"""A GPU machine of programs that only look like docker, mpirun, nvidia-smi and tritonserver.

What they start is the real Triton of the wheel, on the repository that they were given; each writes its
arguments down first. docker and mpirun pass signals on as the real ones do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

H100 = "NVIDIA H100 80GB HBM3, 81559, 9.0, 580.95.05"

_HEAD = """#!@PYTHON@
import json, os, signal, subprocess, sys, tempfile, threading, time
from pathlib import Path

here = Path(__file__).parent
with (here / "calls").open("a") as calls:
    calls.write(json.dumps([Path(__file__).name, *sys.argv[1:]]) + "\\n")


def fault(name):
    path = here / f"fault-{name}"
    return path.read_text() if path.exists() else None


def end_with(process):
    # A signal that comes while the child starts must not be lost.
    signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    return process.wait()

"""

_NVIDIA_SMI = """
if text := fault("nvidia-smi"):
    print(text)
    sys.exit(9)
print((here / "gpus").read_text())
"""

_TRITONSERVER = """
if os.environ.get("OMPI_COMM_WORLD_RANK", "0") != "0":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pause()  # loads the C++ model, and never comes back from it
if text := fault("tritonserver"):
    print(text, flush=True)
    sys.exit(1)
from enginewright_serve.command_line import make_backends, server_environment
from enginewright_serve.triton_binary import find_triton

binary = find_triton()
backends = make_backends(binary, Path(tempfile.mkdtemp(dir=here)))
arguments = [*sys.argv, f"--backend-directory={backends}"]
os.execve(binary.executable, [str(here / "tritonserver"), *arguments[1:]],
          server_environment(binary, os.environ, None))
"""

# Open MPI passes SIGTERM to every rank at once, and SIGKILL after a second or what it is told.
_MPIRUN = """
if text := fault("mpirun"):
    print(text, flush=True)
    sys.exit(213)
words = "\\0".join(sys.argv[1:]).split("\\0:\\0")
words[0] = words[0][words[0].index("-n\\0001"):]
ranks = []
for rank, application in enumerate(words):
    _, count, program, *arguments = application.split("\\0")
    environment = {**os.environ, "OMPI_COMM_WORLD_RANK": str(rank)}
    ranks.append(subprocess.Popen([program, *arguments], env=environment))


def terminate(number, frame):
    with (here / "calls").open("a") as calls:
        calls.write(json.dumps(["mpirun got SIGTERM"]) + "\\n")
    for process in ranks:
        process.terminate()
    signal.alarm(int(os.environ.get("OMPI_MCA_odls_base_sigkill_timeout", "1")))


def kill(number, frame):
    for process in ranks:
        process.kill()


signal.signal(signal.SIGTERM, terminate)
signal.signal(signal.SIGALRM, kill)
code = ranks[0].wait()
for process in ranks[1:]:
    process.kill()
    process.wait()
sys.exit(code)
"""

_DOCKER = """
command, *arguments = sys.argv[1:]
if command in ("version", "image"):
    if text := fault(f"docker-{command}"):
        print(text, file=sys.stderr)
        sys.exit(1)
elif command == "run":
    if text := fault("docker-run"):
        print(text, file=sys.stderr)
        sys.exit(125)
    name = arguments[arguments.index("--name") + 1]
    image = next(place for place, word in enumerate(arguments) if "-trtllm-python-py3" in word)
    inside = [word.replace("region-prefix-name=prefix", f"region-prefix-name={name}_")
              for word in arguments[image + 1:]]
    environment = dict(os.environ)
    for option, value in zip(arguments, arguments[1:]):
        if option == "--mount":
            source, _, target = value[len("type=bind,src="):-len(",readonly")].partition(",dst=")
            inside = [word.replace(target, source) for word in inside]
            if target == "/models":
                environment["STAND_IN_MOUNT"] = source
        if option == "--env" and "=" in value:
            environment.__setitem__(*value.split("=", 1))
    container = subprocess.Popen(inside, env=environment, start_new_session=True)
    (here / name).write_text(str(container.pid))
    code = end_with(container)
    for region in Path("/dev/shm").glob(f"{name}_*"):  # a container's own ends with it
        region.unlink()
    (here / name).unlink(missing_ok=True)
    sys.exit(code)
elif command in ("stop", "rm"):
    state = here / arguments[-1]
    if not state.exists():
        sys.exit(f"Error response from daemon: No such container: {arguments[-1]}")
    pid = int(state.read_text())
    os.kill(pid, signal.SIGTERM) if command == "stop" else os.killpg(pid, signal.SIGKILL)
    while state.exists() and os.getppid() != 1:
        time.sleep(0.01)
"""

_PROGRAMS = {
    "nvidia-smi": _NVIDIA_SMI,
    "tritonserver": _TRITONSERVER,
    "mpirun": _MPIRUN,
    "docker": _DOCKER,
}


class Machine:
    """`bin` goes first on PATH. calls(): what was called, with its arguments, in order."""

    def __init__(self, folder: Path, *, programs: tuple[str, ...], gpus: tuple[str, ...]) -> None:
        self.bin = folder / "tritonserver" / "bin"
        self.bin.mkdir(parents=True)
        (folder / "tritonserver" / "backends" / "tensorrtllm").mkdir(parents=True)
        (self.bin / "gpus").write_text("\n".join(gpus))
        (self.bin / "calls").touch()
        for name in programs:
            (self.bin / name).write_text(_HEAD.replace("@PYTHON@", sys.executable) + _PROGRAMS[name])
            (self.bin / name).chmod(0o755)

    def calls(self, program: str) -> list[list[str]]:
        lines = map(json.loads, (self.bin / "calls").read_text().splitlines())
        return [arguments for name, *arguments in lines if name == program]

    def fault(self, program: str, text: str) -> None:
        """From now on `program` fails with `text`."""
        (self.bin / f"fault-{program}").write_text(text)

    def containers(self) -> list[str]:
        return [path.name for path in self.bin.glob("enginewright-serve-*")]
