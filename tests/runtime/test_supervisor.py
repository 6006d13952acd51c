"""A supervised server comes back: whatever dies or hangs, and not when it is merely busy."""

from __future__ import annotations

import itertools
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from enginewright_client import (
    CompletionStream,
    ConnectError,
    RequestError,
    SamplingParams,
    TritonClient,
)
from enginewright_errors import StageFailed
from enginewright_front.repository import write_repository
from enginewright_onnx import EngineOptions, write_engine
from enginewright_serve import HealthPolicy, Supervisor, SupervisorPolicy, TritonServer, health
from enginewright_serve.health import HealthCheck, sign_of_life
from enginewright_serve.probe import Outcome, Probe, ProbeResult
from package_manifest import write_manifest
from runtime.conftest import Traces, eventually
from runtime.raw_requests import cancellation, stream_request
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

STUB = "triton_python_backend_stub"
GREEDY = SamplingParams(max_tokens=8, temperature=0.0)
LONG = SamplingParams(max_tokens=4000, min_tokens=4000, temperature=0.0)
IMPATIENT = HealthPolicy(probe_seconds=0.1, silence_seconds=2.0)


class Supervised:
    """A running server, its supervisor in a thread, and what that reported."""

    def __init__(self, server: TritonServer, policy: SupervisorPolicy) -> None:
        self.server = server
        self.expected = self._ask()
        self.reports: list[str] = []
        self.error: StageFailed | None = None
        self.supervisor = Supervisor(server, self.reports.append, policy)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.supervisor.run()
        except StageFailed as error:
            self.error = error

    def answers(self) -> bool:
        """Whether it says what it said before anything happened to it."""
        with suppress(RequestError):
            return self._ask() == self.expected
        return False

    def _ask(self) -> str:
        with TritonClient(self.server.grpc_address) as client:
            return client.generate("a", GREEDY, timeout=30).text


@contextmanager
def supervised(repository: Path, **policy: Any) -> Iterator[Supervised]:
    """A server that is up and watched."""
    with TritonServer(repository) as server:
        made = Supervised(server, SupervisorPolicy(**policy))
        try:
            yield made
        finally:
            made.supervisor.stop()
            made.thread.join()
            server.stop(kill=True)


@pytest.fixture(scope="module")
def onnx_repository(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real engine of 32 slots, packaged."""
    folder = tmp_path_factory.mktemp("wide")
    checkpoint = tiny(arch="qwen2", max_position=4096)
    options = EngineOptions(
        max_seq_len=4096, max_batch_size=32, accuracy_level=0, lm_head="fp32", fp8_compute="fp32", threads=1
    )
    write_engine(checkpoint, folder / "engine", options)
    repository = folder / "repository"
    write_repository(repository, engine=folder / "engine", checkpoint=checkpoint, name="wide", max_queue=32)
    write_manifest(repository)
    return repository


@pytest.fixture(params=["scripted", "onnx"])
def endless(
    request: pytest.FixtureRequest, fake_repository: Callable[..., Path]
) -> tuple[Path, str, SamplingParams | None]:
    """A repository, and what to ask it for an answer that does not end soon."""
    if request.param == "scripted":
        return fake_repository(), "count 100000 10", None
    return request.getfixturevalue("onnx_repository"), "a", LONG


def test_a_model_process_that_is_killed_ends_its_streams_and_comes_back(
    endless: tuple[Path, str, SamplingParams | None], traces: Traces
) -> None:
    """Triton alone would leave the 32 callers without an answer for ever, and say that it is ready."""
    repository, prompt, sampling = endless
    starting_at = time.monotonic()
    with supervised(repository) as watched, TritonClient(watched.server.grpc_address) as client:
        # Where other work slows everything down, coming back takes longer than 10 s, as the start did.
        patience = max(10.0, 3 * (time.monotonic() - starting_at))
        answers = [client.stream(prompt, sampling) for _ in range(32)]
        for answer in answers:
            next(answer)
        address, triton = watched.server.grpc_address, watched.server.pid
        traces.shared_memory()
        killed_at = time.monotonic()
        os.kill(traces.processes()[STUB], signal.SIGKILL)
        with ThreadPoolExecutor(32) as threads:
            errors = [found.result() for found in [threads.submit(error_of, answer) for answer in answers]]
        assert time.monotonic() - killed_at < 5
        assert all(isinstance(error, ConnectError) and error.code for error in errors)
        eventually(watched.answers, "it never served again")
        assert time.monotonic() - killed_at < patience
        assert watched.server.grpc_address == address
        assert watched.server.pid != triton
        eventually(lambda: watched.reports, "nothing was reported")
        [report] = watched.reports
        assert "the model process" in report
    assert traces.nothing_left()


def error_of(answer: CompletionStream) -> RequestError | None:
    try:
        list(answer)
    except RequestError as error:
        return error
    return None


def test_a_triton_that_is_killed_comes_back(fake_repository: Callable[..., Path], traces: Traces) -> None:
    with supervised(fake_repository()) as watched:
        assert watched.server.pid is not None
        os.kill(watched.server.pid, signal.SIGKILL)
        eventually(lambda: watched.reports, "it was not restarted")
        assert "killed by signal 9" in watched.reports[0]
        assert watched.answers()
        assert traces.shared_memory()
    assert traces.nothing_left()


def test_a_model_process_that_hangs_is_replaced(fake_repository: Callable[..., Path], traces: Traces) -> None:
    """Stopped, it lives, and Triton calls it ready."""
    with supervised(fake_repository(), health=IMPATIENT) as watched:
        os.kill(traces.processes()[STUB], signal.SIGSTOP)
        eventually(lambda: watched.reports, "nobody noticed")
        # Triton sometimes finds out for itself, and answers with an error.
        assert re.search("the server hangs|is not healthy", watched.reports[0])
        assert watched.answers()


def test_a_triton_that_locks_up_serves_again_within_seconds(
    tiny_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own fault: a stream is reset while a response is written, which this variable of Triton's, for
    debugging, makes last 20 ms. Everything but the streams goes on to answer."""
    monkeypatch.setenv("TRITONSERVER_DELAY_GRPC_RESPONSE", "20")
    with supervised(tiny_repository) as watched:
        request = stream_request("a", 4000)
        with grpc.insecure_channel(watched.server.grpc_address) as channel:
            locked_at = time.monotonic()
            while not watched.reports and channel_answers(channel):
                locked_at = time.monotonic()
                call = GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request]))
                next(call)
                call.cancel()
        eventually(lambda: watched.reports, "nobody noticed")
        print(f"served again after {time.monotonic() - locked_at:.1f} s: {watched.reports}")
        assert "the server hangs: no answer for 4 s" in watched.reports[0]
        with TritonClient(watched.server.grpc_address, timeout=60) as client:
            assert client.health().generates


def channel_answers(channel: grpc.Channel) -> bool:
    """Whether a request that needs no engine comes back."""
    request = cancellation("nobody's")
    try:
        return bool(list(GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request]), timeout=2)))
    except grpc.RpcError:
        return False


def test_an_engine_that_answers_with_errors_only_is_replaced(fake_repository: Callable[..., Path]) -> None:
    with supervised(fake_repository(fault="fail after 2"), health=IMPATIENT) as watched:
        eventually(lambda: watched.reports, "nobody noticed")
        assert "3 inferences in a row failed: out of order" in watched.reports[0]


def test_one_that_does_not_stay_up_is_given_up_with_the_reason(
    fake_repository: Callable[..., Path], traces: Traces
) -> None:
    repository = fake_repository()
    with supervised(repository, restarts=2, pause_seconds=0.01) as watched:
        model = repository / "llm" / "1" / "model.py"
        model.write_text(model.read_text().replace('self.fault == "raise"', "True"))
        os.kill(traces.processes()[STUB], signal.SIGKILL)
        watched.thread.join()
        assert watched.error is not None
        assert watched.error.exit_code == 4
        assert "failed again after 2 restarts" in watched.error.message
        assert "ValueError: the engine is broken" in watched.error.message
        log = Path(watched.error.hint.removeprefix("its log is "))
        assert log.read_text().count("the engine is broken") >= 2
        assert not watched.reports
        assert not traces.processes()


class Answers:
    """A probe that gives written results, the last one for ever."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.asked = 0

    def ask(self, seconds: float) -> ProbeResult:
        self.asked += 1
        return ProbeResult(self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0], "why")

    def close(self) -> None:
        pass


def verdict_on(probe: Answers, report: Callable[[], float | None], until: Callable[[], bool]) -> str | None:
    policy = HealthPolicy(probe_seconds=0.001, silence_seconds=0.05)
    check = HealthCheck(cast("Probe", probe), report, policy)
    eventually(lambda: check.verdict is not None or until(), "neither a verdict nor an end")
    check.stop()
    return check.verdict


def test_a_busy_server_is_left_alone_as_long_as_its_front_lives() -> None:
    """A long prompt ahead of the probe: no answer for many times the patience."""
    reports = itertools.count(1.0)
    probe = Answers("silent")
    assert verdict_on(probe, lambda: next(reports), lambda: probe.asked > 500) is None


@pytest.mark.parametrize("outcome", ["works", "busy"])
def test_an_answer_of_any_kind_clears_it(outcome: Outcome) -> None:
    probe = Answers("silent", "fails", "fails", outcome)
    assert verdict_on(probe, lambda: 1.0, lambda: probe.asked > 500) is None


def test_a_sign_of_life_that_stands_still_is_a_reason_to_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to restart: the probe is answered. Without a request there is no sign, and no reason."""
    monkeypatch.setattr(health, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(health, "_STILL_SECONDS", 0.01)
    signs: list[float | None] = [None] * 50 + [5.0, 6.0, 7.0]
    looked_at = []

    class Probed(Answers):
        def ask(self, seconds: float) -> ProbeResult:
            looked_at.append(len(signs))
            return super().ask(seconds)

    def sign() -> float | None:
        return signs.pop(0) if len(signs) > 1 else signs[0]

    probe = Probed("works")
    check = HealthCheck(cast("Probe", probe), sign, HealthPolicy(probe_seconds=1000.0, silence_seconds=0.05))
    eventually(lambda: probe.asked > 2, "it was not probed")
    check.stop()
    assert check.verdict is None
    assert set(looked_at) == {1}


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        ("silent", "no answer"),
        ("stalled", "the engine hangs: why"),
        ("fails", "3 inferences in a row failed"),
    ],
)
def test_what_is_dead_is_called_dead(outcome: Outcome, verdict: str) -> None:
    found = verdict_on(Answers(outcome), lambda: 1.0, lambda: False)
    assert found is not None
    assert verdict in found


@pytest.mark.parametrize(
    ("figures", "sign"),
    [
        ("alive_timestamp_seconds 1.5 requests_unanswered 2 requests_active 0", 1.5),
        ("alive_timestamp_seconds 1.5 requests_unanswered 0 requests_active 2", None),
        ("alive_timestamp_seconds 1.5 requests_active 2", 1.5),  # an older front
        ("alive_timestamp_seconds 1.5 requests_active 0", None),
        ("restarts 3", None),
        (None, None),
    ],
)
def test_a_front_shows_a_sign_of_life_only_while_it_has_requests(
    figures: str | None, sign: float | None
) -> None:
    """An unanswered probe of an idle server has nothing to wait for."""
    page = re.sub(r"(\w+) (\S+) ?", r"enginewright_\1 \2\n", figures or "").encode()

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if page else 500)
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.handle_request).start()
        assert sign_of_life(f"127.0.0.1:{server.server_port}") == sign
