"""`enginewright serve` for TensorRT-LLM on a machine of stand-ins that start the real Triton."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from enginewright.load_recipe import load_trtllm_recipe
from enginewright.trtllm_recipe import trtllm_target
from enginewright_client import TLS, AccessDenied, ConnectError, TritonClient
from enginewright_serve.access import Access
from enginewright_serve.access_flags import access_flags
from enginewright_serve.ports import choose_ports
from enginewright_serve.server_base import FRONT_VARIABLES
from enginewright_trtllm.container import Mount, serve_container
from enginewright_trtllm.launch import Ports, ServerFlags
from runtime.certificates import Authority
from runtime.commands import Command
from runtime.conftest import Traces, eventually
from runtime.trtllm_machine import H100, Machine
from trtllm_built import write_built

READY = "Ctrl-C stops it"
TOKEN = "a-token.for~these_tests+only"
IMAGE = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
ALL = ("nvidia-smi", "tritonserver", "mpirun", "docker")

MakeMachine = Callable[..., Machine]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeMachine:
    """`machine(programs=..., gpus=..., tensorrt_llm="1.2.1")`: what PATH and Python's packages have."""

    def make(
        programs: tuple[str, ...] = ALL, gpus: tuple[str, ...] = (H100, H100), tensorrt_llm: str = "1.2.1"
    ) -> Machine:
        made = Machine(tmp_path / "machine", programs=programs, gpus=gpus)
        packages = tmp_path / "packages"
        for name, version in (("tensorrt_llm", tensorrt_llm), ("tensorrt", "10.14.1.48")):
            info = packages / f"{name}-{version}.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.setenv("PATH", f"{made.bin}:/usr/bin:/bin")
        monkeypatch.setenv(
            "PYTHONPATH", os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
        )
        return made

    return make


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """tp 2, built on two H100."""
    return write_built(tmp_path / "built")


@pytest.fixture
def ports() -> list[str]:
    chosen = choose_ports("127.0.0.1", {"--grpc-port": None, "--metrics-port": None})
    return [f"--grpc-port={chosen[0]}", f"--metrics-port={chosen[1]}"]


@pytest.fixture(params=["mpirun", "docker"])
def serving(
    request: pytest.FixtureRequest,
    machine: MakeMachine,
    built: Path,
    ports: list[str],
    traces: Traces,
    tmp_path: Path,
) -> Iterator[tuple[Command, Machine]]:
    """A server that is up, by mpirun or in a container."""
    made = machine()
    options = ["--container"] if request.param == "docker" else []
    with Command(tmp_path, "serve", built, *ports, *options) as command:
        command.prints(READY)
        yield command, made
    eventually(traces.nothing_left, f"something stayed: {traces.processes()}")
    assert not made.containers()


def address(command: Command) -> str:
    return command.text().partition("gRPC")[2].split()[0]


def refused(tmp_path: Path, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, error and hint of a command that is expected to fail, each a line."""
    with Command(tmp_path, *arguments) as command:
        code = command.code()
        [error, hint] = command.errors().splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    return code, error, hint


def test_it_answers_with_every_rank_and_lets_running_requests_end(
    serving: tuple[Command, Machine], traces: Traces
) -> None:
    command, machine = serving
    assert "starting qwq-32b-fp8-tp2" in command.text()
    (arguments,) = machine.calls("mpirun")
    assert arguments.count("tritonserver") == 2
    assert arguments.count("--load-model=tensorrt_llm") == 1
    runs = [words for words in machine.calls("docker") if words[0] == "run"]
    for run in runs:
        assert run[run.index("--gpus") + 1] == "2"
        assert run[run.index("--user") + 1] == "1000:1000"
        assert IMAGE in run
    if not runs:  # the packaged configs name /models: what is served names the place that it is at
        assert "--model-repository=/models" not in arguments
    with TritonClient(address(command)) as client, client.stream("count 60 25") as answer:
        next(answer)
        command.process.send_signal(signal.SIGTERM)
        text = "".join(delta.text for delta in answer)
    assert text.endswith("59 ")
    assert command.code() == 0
    assert command.errors() == ""
    assert "stopped in" in command.text()
    # Where its ranks can be reached one by one, mpirun has no say in how long they have.
    assert bool(machine.calls("mpirun got SIGTERM")) == bool(runs)
    assert traces.nothing_left()


@pytest.mark.parametrize("way", ["mpirun", "docker"])
def test_nothing_stays_when_it_is_killed(
    way: str, machine: MakeMachine, built: Path, ports: list[str], traces: Traces, tmp_path: Path
) -> None:
    made = machine()
    options = ["--container"] if way == "docker" else []
    with Command(tmp_path, "serve", built, *ports, *options) as command:
        command.prints(READY)
        command.process.kill()
    eventually(traces.nothing_left, f"something stayed: {traces.processes()}")
    assert not made.containers()


@pytest.mark.parametrize("options", [[], ["--container"]])
def test_interrupted_while_engines_load_it_is_gone_at_once(
    options: list[str], machine: MakeMachine, ports: list[str], traces: Traces, tmp_path: Path
) -> None:
    made = machine()
    mute = write_built(tmp_path / "mute", fault="mute")
    with Command(tmp_path, "serve", mute, *ports, *options) as command:
        eventually(traces.shared_memory, "the server never came")
        command.interrupt()
        assert command.code() == 130
    eventually(traces.nothing_left, f"something stayed: {traces.processes()}")
    assert not made.containers()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize("way", ["mpirun", "docker"])
def test_tls_client_certificates_and_a_token_guard_it(
    way: str,
    authority: Authority,
    machine: MakeMachine,
    built: Path,
    ports: list[str],
    traces: Traces,
    tmp_path: Path,
) -> None:
    made, server = machine(), authority.sign("server")
    options = ["--tls-cert", server.certificate, "--tls-key", server.key, "--tls-client-ca", authority.pem]
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    options += ["--token-file", tmp_path / "token", *(["--container"] if way == "docker" else [])]
    own = authority.sign("client", use="clientAuth")
    tls = TLS(ca=authority.pem, certificate=own.certificate, key=own.key, server_name="llm.example")
    with Command(tmp_path, "serve", built, *ports, *options) as command:
        command.prints(READY)
        assert "(TLS, client certificates, token)" in command.text()
        with TritonClient(address(command), tls=tls, token=TOKEN) as client:
            assert client.generate("one two").text == "one two "
        with TritonClient(address(command), tls=tls) as client, pytest.raises(AccessDenied):
            client.generate("one two")
        stranger = TLS(ca=authority.pem, server_name="llm.example")
        for other in (stranger, None):
            client = TritonClient(address(command), tls=other, token=TOKEN)
            with client, pytest.raises(ConnectError):
                client.generate("one two")
        secret = f"{TOKEN}|enginewright-admin=[0-9a-f]"
        eventually(lambda: not matching_commands(tmp_path, secret), "a key is in the process table")
        assert matching_commands(tmp_path, r"enginewright-token=\*+ ")
        assert TOKEN not in str([*made.calls("mpirun"), *made.calls("docker")])
        for copy in traces.access_copies():  # the container's user is another one: what keeps others out
            assert stat.S_IMODE(copy.stat().st_mode) == 0o444
            assert stat.S_IMODE(copy.parent.parent.stat().st_mode) == 0o700
        assert len(traces.access_copies()) == (4 if way == "docker" else 0)
        command.process.terminate()
        assert command.code() == 0
    assert traces.nothing_left()


def matching_commands(folder: Path, pattern: str) -> list[str]:
    """The command lines that name something in `folder` and match, as anybody on the machine sees them."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(folder) in line and re.search(pattern, line)]


def test_a_second_interrupt_cuts_running_requests_off(serving: tuple[Command, Machine]) -> None:
    command, _ = serving
    with TritonClient(address(command)) as client, client.stream("count 100000 10") as answer:
        next(answer)
        command.interrupt()
        command.prints("Ctrl-C again")
        command.interrupt()
        assert command.code() == 130
        with pytest.raises(ConnectError):
            list(answer)


def test_a_server_that_dies_is_started_again(serving: tuple[Command, Machine], traces: Traces) -> None:
    command, machine = serving
    os.kill(traces.processes()["tritonserver"], signal.SIGKILL)
    command.prints("restarted in")
    with TritonClient(address(command)) as client:
        assert client.generate("one two").text == "one two "
    assert len(machine.calls("mpirun")) == 2
    command.process.terminate()
    assert command.code() == 0


def test_two_variants_are_one_orchestrator(
    machine: MakeMachine, ports: list[str], traces: Traces, tmp_path: Path
) -> None:
    made = machine()
    both = write_built(tmp_path / "both", recipe="qwq-32b-int4-awq-yarn")
    with Command(tmp_path, "serve", both, *ports, "--gpus", "1,0") as command:
        command.prints(READY)
        command.interrupt()
        assert command.code() == 130
    (arguments,) = made.calls("mpirun")
    assert arguments.count("tritonserver") == 1
    assert "--cuda-memory-pool-byte-size=1:0" in arguments
    assert traces.nothing_left()


OTHER = {
    "another architecture": ((H100, H100.replace("9.0", "8.9")), "1.2.1", 2, "SM 89", "Build the engine on"),
    "another TensorRT-LLM": ((H100, H100), "1.3.0", 2, "TensorRT-LLM 1.2.1, here is 1.3.0", IMAGE),
    "too few GPUs": ((H100,), "1.2.1", 3, "1 GPUs are visible, 2 are needed", "Make more GPUs visible"),
    "less memory": (
        (H100, H100.replace("81559", "40960")),
        "1.2.1",
        3,
        "GPU 1 (NVIDIA H100 80GB HBM3) has 40960 MiB",
        "Plan again",
    ),
    "no GPU": (("No devices were found",), "1.2.1", 3, "0 GPUs are visible", "Make more GPUs visible"),
}


@pytest.mark.parametrize("difference", OTHER)
def test_an_engine_of_another_machine_is_refused_before_anything_starts(
    difference: str, machine: MakeMachine, built: Path, ports: list[str], tmp_path: Path
) -> None:
    gpus, tensorrt_llm, expected, message, remedy = OTHER[difference]
    made = machine(gpus=gpus, tensorrt_llm=tensorrt_llm)
    code, error, hint = refused(tmp_path, "serve", built, *ports)
    assert code == expected
    assert message in error
    assert remedy in hint
    assert made.calls("mpirun") == []


@pytest.mark.parametrize(
    ("program", "text", "message", "hint"),
    [
        (
            "nvidia-smi",
            "Failed to initialize NVML: Driver/library version mismatch",
            "does not work: Failed",
            "restart",
        ),
        (
            "docker-version",
            "Cannot connect to the Docker daemon",
            "docker does not work: Cannot connect",
            "docker info",
        ),
        ("docker-image", "No such image", f"{IMAGE} is not on this machine", f"docker pull {IMAGE}"),
        (
            "docker-run",
            'docker: Error response from daemon: could not select device driver "" with capabilities.',
            "did not start: could not select device driver",
            "its log is",
        ),
    ],
)
def test_a_machine_that_cannot_is_one_line_and_exit_code_4(
    program: str,
    text: str,
    message: str,
    hint: str,
    machine: MakeMachine,
    built: Path,
    ports: list[str],
    traces: Traces,
    tmp_path: Path,
) -> None:
    machine(programs=("nvidia-smi", "docker")).fault(program, text)
    code, error, said = refused(tmp_path, "serve", built, *ports)
    assert code == 4
    assert message in error
    assert hint in said
    assert not traces.processes()


@pytest.mark.parametrize(
    ("programs", "options", "message", "hint"),
    [
        ((), [], "no NVIDIA driver", "--dry-run"),
        (("nvidia-smi",), [], "docker is not installed", IMAGE),
        (("nvidia-smi", "tritonserver"), [], "mpirun is not on PATH", IMAGE),
        (("nvidia-smi", "tritonserver", "mpirun"), ["--container"], "docker is not installed", IMAGE),
    ],
)
def test_what_is_not_installed_is_named(
    programs: tuple[str, ...],
    options: list[str],
    message: str,
    hint: str,
    machine: MakeMachine,
    built: Path,
    ports: list[str],
    tmp_path: Path,
) -> None:
    machine(programs=programs)
    code, error, said = refused(tmp_path, "serve", built, *ports, *options)
    assert code == 4
    assert message in error
    assert hint in said


def test_an_old_driver_is_refused_where_no_compatibility_library_helps(
    machine: MakeMachine, ports: list[str], tmp_path: Path
) -> None:
    made = machine(
        gpus=("NVIDIA GeForce RTX 4090, 24564, 8.9, 550.54.14",), programs=("nvidia-smi", "docker")
    )
    one = write_built(tmp_path / "one", recipe="qwq-32b-int4-awq-24gb", facts={"sm": 89, "world_size": 1})
    code, error, hint = refused(tmp_path, "serve", one, *ports)
    assert code == 2
    assert "driver is 550.54.14, CUDA 13.1 needs 580" in error
    assert "580 or later" in hint
    assert made.calls("docker") == []


def test_a_model_that_cannot_load_gives_the_engines_own_reason(
    machine: MakeMachine, built: Path, ports: list[str], traces: Traces, tmp_path: Path
) -> None:
    machine().fault(
        "tritonserver", "[TensorRT-LLM][ERROR] 6: expecting compute 9.0 got compute 8.9, please rebuild"
    )
    code, error, _ = refused(tmp_path, "serve", built, *ports, "--log-file", "log")
    assert code == 4
    assert error == "error: the server did not start: expecting compute 9.0 got compute 8.9, please rebuild"
    eventually(traces.nothing_left, "something stayed")


@pytest.mark.parametrize("file", ["tensorrt_llm/1/engine/rank1.engine", "tensorrt_llm/config.pbtxt"])
def test_a_file_that_is_missing_or_hidden_is_named_first(
    file: str, machine: MakeMachine, built: Path, ports: list[str], tmp_path: Path
) -> None:
    made = machine()
    (built / file).chmod(0o600)
    code, error, hint = refused(tmp_path, "serve", built, *ports, "--container")
    assert (code, file in error, "chmod -R a+rX" in hint) == (2, True, True)
    (built / file).unlink()
    code, error, _ = refused(tmp_path, "serve", built, *ports)
    assert (code, f"{file} is missing" in error) == (2, True)
    assert not [words for words in made.calls("docker") if words[0] == "run"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "2"], "--threads is for ONNX engines"),
        (["--http-port", "8000"], "--http-port is for ONNX engines"),
        (["--gpus", "0,x"], "--gpus 0,x is not a list"),
        (["--gpus", "0,0"], "--gpus 0,0 is not a list"),
        (["--gpus", "0,7"], "there is no GPU 7, 2 are visible"),
        (["--grpc-port", "8002"], "are both 8002"),
        (["--host", "0.0.0.0"], "nothing would be encrypted"),
        (["--tls-cert", "server.pem"], "--tls-cert without --tls-key"),
    ],
)
def test_options_that_cannot_be_are_one_line(
    arguments: list[str], message: str, machine: MakeMachine, built: Path, tmp_path: Path
) -> None:
    machine()
    code, error, _ = refused(tmp_path, "serve", built, *arguments)
    assert code == 2
    assert message in error


def test_gpu_options_are_refused_for_an_onnx_engine(
    fake_repository: Callable[..., Path], tmp_path: Path
) -> None:
    for option in (["--dry-run"], ["--container"], ["--gpus", "0"]):
        code, error, _ = refused(tmp_path, "serve", fake_repository(), *option)
        assert code == 2
        assert error == f"error: {option[0]} is for TensorRT-LLM engines"


def dry_run(tmp_path: Path, *arguments: str | Path) -> tuple[str, list[str]]:
    """What it says, and the words of its command line as a shell reads them."""
    with Command(tmp_path, "serve", *arguments, "--dry-run") as command:
        assert command.code() == 0, command.errors()
        text = command.text()
    *said, line = text.replace("\\\n", "").splitlines()
    return "\n".join(said), shlex.split(line)


def test_a_dry_run_needs_nothing_and_prints_the_line_that_docker_would_get(
    machine: MakeMachine, built: Path, tmp_path: Path
) -> None:
    made = machine(programs=())
    said, words = dry_run(
        tmp_path, built, "--gpus", "2,3", "--host", "0.0.0.0", "--insecure", "--grpc-port", "9001"
    )
    private = Path("/A_NEW_PRIVATE_FOLDER")
    assert words.pop(0) == "ENGINEWRIGHT_ADMIN_KEY=SECRET"
    target = trtllm_target(load_trtllm_recipe("qwq-32b-fp8-tp2"))
    assert words == serve_container(
        target,
        repository=str(built),
        name=private.name,
        ports=Ports(grpc=9001, http=None),
        gpus=(2, 3),
        host="0.0.0.0",
        flags=ServerFlags(
            exit_timeout=30,
            guard=access_flags(Access()),
            sealed=("python3", "-I", "/run/enginewright/sealed_start.py"),
        ),
        inherited=(*FRONT_VARIABLES, "ENGINEWRIGHT_ADMIN_KEY"),
        mounts=(Mount(f"{private}/access", "/run/enginewright", read_only=True),),
    )
    for check in (
        "every file",
        "2 visible, SM 90",
        "TensorRT-LLM 1.2.1",
        "docker",
        "9001 and 8002 of 0.0.0.0",
    ):
        assert check in said
    assert (made.bin / "calls").read_text() == ""


def test_a_dry_run_where_triton_is_installed_prints_the_mpirun_line(
    machine: MakeMachine, built: Path, tmp_path: Path
) -> None:
    made = machine()
    said, words = dry_run(tmp_path, built, "--gpus", "0,1")
    assignments, line = words[: words.index("mpirun")], words[words.index("mpirun") :]
    assert "CUDA_VISIBLE_DEVICES=0,1" in assignments
    assert line.count("tritonserver") == 2
    assert "a folder of links" in said
    assert (made.bin / "calls").read_text() == ""
    _, container = dry_run(tmp_path, built, "--container")
    assert container[1:3] == ["docker", "run"]


def test_engines_that_are_not_compiled_yet_are_refused_with_the_way_on(
    machine: MakeMachine, built: Path, tmp_path: Path
) -> None:
    machine()
    manifest = json.loads((built / "manifest.json").read_text())
    del manifest["chain"]["package"]
    (built / "manifest.json").write_text(json.dumps(manifest))
    code, error, hint = refused(tmp_path, "serve", built)
    assert (code, "not compiled yet" in error, "GPUs" in hint) == (2, True, True)
