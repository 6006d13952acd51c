"""Ports: free ones are found, a busy one is refused with the name of who holds it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from enginewright_errors import UsageError
from enginewright_serve.ports import choose_ports

HOST = "127.0.0.1"


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


def test_ports_that_are_left_open_are_all_different() -> None:
    names = [f"--{number}-port" for number in range(50)]
    assert len(set(choose_ports(HOST, dict.fromkeys(names)))) == 50


def test_any_free_port_is_never_one_that_another_option_names() -> None:
    for _ in range(50):  # the kernel likes to give again what was just given back
        [free] = choose_ports(HOST, {"--http-port": None})
        any_port, named = choose_ports(HOST, {"--grpc-port": None, "--http-port": free})
        assert named == free != any_port


def test_a_free_port_is_taken_as_it_is(busy: int) -> None:
    [free] = choose_ports(HOST, {"--grpc-port": None})
    assert choose_ports(HOST, {"--grpc-port": free}) == [free]


def test_a_busy_port_is_refused_with_its_holder(busy: int) -> None:
    with pytest.raises(UsageError) as caught:
        choose_ports(HOST, {"--grpc-port": None, "--metrics-port": busy})
    assert caught.value.message.startswith(f"port {busy} of {HOST} is in use by pid {os.getpid()} (python")
    assert "--metrics-port" in caught.value.hint


def test_one_port_for_two_purposes_is_refused() -> None:
    [free] = choose_ports(HOST, {"--grpc-port": None})
    with pytest.raises(UsageError, match=f"--grpc-port and --http-port are both {free}"):
        choose_ports(HOST, {"--grpc-port": free, "--http-port": free})


@pytest.mark.parametrize("port", [-1, 0, 65536, 2**40])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(UsageError, match=f"port {port} is not between 1 and 65535"):
        choose_ports(HOST, {"--grpc-port": port})


@pytest.mark.parametrize("host", ["203.0.113.7", "::1", "nonsense.invalid"])
def test_a_host_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match=f"cannot listen at {host}"):
        choose_ports(host, {"--grpc-port": None})
