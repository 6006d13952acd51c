"""A real Triton from its start to its end: it works when start returns, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from enginewright_client import ConnectError, RequestError, ServerOverloaded, TritonClient
from enginewright_errors import StageFailed
from enginewright_serve import TritonServer
from runtime.conftest import Traces, eventually

STUB = "triton_python_backend_stub"


def test_a_started_server_generates_and_a_stopped_one_leaves_nothing(
    fake_repository: Callable[..., Path], traces: Traces
) -> None:
    with TritonServer(fake_repository()) as server:
        with TritonClient(server.grpc_address) as client:
            assert client.generate("a b").text == "a b "
        url = f"http://{server.metrics_address}/metrics"
        assert b"nv_inference_count" in urllib.request.urlopen(url, timeout=10).read()
        processes = {"keeper.py", "tritonserver", STUB}
        eventually(lambda: traces.processes().keys() == processes, "what hides the keys did not end")
        assert traces.processes()["tritonserver"] == server.pid
        assert traces.shared_memory()
    assert traces.nothing_left()


def test_two_servers_serve_one_repository(
    fake_repository: Callable[..., Path], fake_server: TritonServer
) -> None:
    repository = fake_repository()
    with TritonServer(repository) as first, TritonServer(repository) as second:
        for server in (first, second):
            with TritonClient(server.grpc_address) as client:
                assert client.health().generates
        first.stop(kill=True)
        with TritonClient(second.grpc_address) as client:
            assert client.generate("a").text == "a "


def test_only_byte_code_is_written_to_a_repository(fake_repository: Callable[..., Path]) -> None:
    repository = fake_repository()

    def files() -> dict[Path, int]:
        found = (path for path in repository.rglob("*") if path.is_file() and path.suffix != ".pyc")
        return {path: path.stat().st_mtime_ns for path in found}

    before = files()
    with TritonServer(repository) as server:
        server.stop(kill=True)
    assert files() == before


def test_running_requests_end_before_the_server_does(
    fake_repository: Callable[..., Path], traces: Traces
) -> None:
    server = TritonServer(fake_repository())
    server.start()
    with TritonClient(server.grpc_address) as client, client.stream("count 100 10") as answer:
        next(answer)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        assert len(list(answer)) >= 99
        assert answer.finish_reason == "stop"
        stopper.join()
    assert traces.nothing_left()


def test_a_request_to_a_server_that_is_stopping_may_be_tried_again(
    fake_repository: Callable[..., Path], traces: Traces
) -> None:
    server = TritonServer(fake_repository())
    server.start()
    with TritonClient(server.grpc_address) as client, client.stream("count 100000 10") as answer:
        next(answer)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        with pytest.raises(ServerOverloaded, match="no available versions") as caught:
            while True:  # it takes requests until it has begun to stop
                client.generate("a")
        assert caught.value.code == "unavailable"
    stopper.join()
    assert traces.nothing_left()


def test_a_request_that_never_ends_delays_the_end_by_the_exit_timeout(
    fake_repository: Callable[..., Path], traces: Traces
) -> None:
    server = TritonServer(fake_repository(), exit_timeout=1)
    server.start()
    with TritonClient(server.grpc_address) as client, client.stream("count 100000 10") as answer:
        next(answer)
        traces.shared_memory()
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 1 + 5 + 2
        with pytest.raises(RequestError):
            list(answer)
    assert traces.nothing_left()


def test_kill_ends_running_requests_at_once(fake_repository: Callable[..., Path], traces: Traces) -> None:
    server = TritonServer(fake_repository())
    server.start()
    with TritonClient(server.grpc_address) as client, client.stream("count 100000 10") as answer:
        next(answer)
        traces.shared_memory()
        server.stop(kill=True)
        with pytest.raises(ConnectError):
            list(answer)
    assert traces.nothing_left()


@pytest.mark.parametrize("victim", ["tritonserver", "keeper.py"])
def test_a_server_that_was_killed_is_reported_and_leaves_nothing(
    fake_repository: Callable[..., Path], traces: Traces, tmp_path: Path, victim: str
) -> None:
    server = TritonServer(fake_repository(), log=tmp_path / "log")
    server.start()
    traces.shared_memory()
    stub = traces.processes()[STUB]
    os.kill(traces.processes()[victim], signal.SIGKILL)
    with pytest.raises(StageFailed, match="the server ended") as caught:
        server.wait()
    assert str(tmp_path / "log") in caught.value.hint
    server.stop()
    eventually(lambda: not Path(f"/proc/{stub}").exists(), "the model's process stayed")
    eventually(traces.nothing_left, "something stayed")


def test_the_signal_that_killed_it_is_named(fake_repository: Callable[..., Path], tmp_path: Path) -> None:
    server = TritonServer(fake_repository(), log=tmp_path / "log")
    server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(StageFailed, match="killed by signal 9"):
        server.wait()
    server.stop()


def test_nothing_is_left_when_the_process_that_started_it_is_killed(
    fake_repository: Callable[..., Path], traces: Traces, tmp_path: Path
) -> None:
    program = (
        "import sys, time; from pathlib import Path; from enginewright_serve import TritonServer\n"
        "server = TritonServer(Path(sys.argv[1])); server.start(); print('up', flush=True); server.wait()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program, fake_repository()], stdout=subprocess.PIPE, cwd=tmp_path
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"up\n"
    assert traces.shared_memory()
    starter.kill()
    starter.communicate()
    eventually(traces.nothing_left, "something stayed")


def test_the_thread_that_started_it_may_end(fake_repository: Callable[..., Path]) -> None:
    server = TritonServer(fake_repository())
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    with TritonClient(server.grpc_address) as client:
        assert client.generate("a").text == "a "
    server.stop(kill=True)


def test_stopping_what_never_ran_does_nothing(fake_repository: Callable[..., Path], traces: Traces) -> None:
    server = TritonServer(fake_repository())
    server.stop()
    server.stop(kill=True)
    assert traces.nothing_left()


def test_a_server_may_be_started_again(fake_repository: Callable[..., Path], traces: Traces) -> None:
    server = TritonServer(fake_repository())
    for _ in range(2):
        with server, TritonClient(server.grpc_address) as client:
            assert client.generate("a").text == "a "
            server.stop(kill=True)
    assert traces.nothing_left()
