"""What a server counts, read from its metrics port."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest
from enginewright_client import (
    AsyncTritonClient,
    ConnectError,
    InvalidRequest,
    Metrics,
    Sample,
    TritonClient,
)
from enginewright_serve import TritonServer
from hypothesis import given
from hypothesis import strategies as st


def test_a_request_is_counted(fake_server: TritonServer) -> None:
    address, metrics_address = fake_server.grpc_address, fake_server.metrics_address

    async def read() -> Metrics:
        async with AsyncTritonClient(address, metrics_address=metrics_address) as client:
            return await client.metrics()

    with TritonClient(address, metrics_address=metrics_address) as client:
        before = client.metrics().value("nv_inference_request_success", model="llm") or 0.0
        client.generate("a")
        after = client.metrics().value("nv_inference_request_success", model="llm")
        assert after == before + 1 == asyncio.run(read()).value("nv_inference_request_success", model="llm")
        assert client.metrics().value("nv_inference_request_success", model="nope") is None


TEXT = r"""
# HELP requests_total How many.
# TYPE requests_total counter
requests_total{outcome="completed",model="llm"} 3
requests_total{outcome="fail\"ed\\\n",model="llm"} 2 1700000000000
ratio 0.5
seconds_bucket{le="+Inf"} 1e3
limit +Inf
not a metric at all {
half{a="b"} x
"""


def test_prometheus_text_is_read() -> None:
    metrics = Metrics.parse(TEXT)
    assert metrics.value("requests_total") == 5
    assert metrics.value("requests_total", outcome="completed", model="llm") == 3
    assert metrics.value("requests_total", outcome='fail"ed\\\n') == 2
    assert metrics.value("ratio") == 0.5
    assert metrics.value("seconds_bucket", le="+Inf") == 1000
    assert metrics.value("limit") == float("inf")
    assert {sample.name for sample in metrics.samples} == {
        "requests_total",
        "ratio",
        "seconds_bucket",
        "limit",
    }


@given(st.text())
def test_any_text_is_read_or_left_out(text: str) -> None:
    assert all(isinstance(sample, Sample) for sample in Metrics.parse(text).samples)


@pytest.mark.parametrize("address", [None, "8002", "host:", ":8002", "host:port"])
def test_an_address_that_is_none_is_refused(address: str | None) -> None:
    with TritonClient(metrics_address=address) as client, pytest.raises(InvalidRequest) as caught:
        client.metrics()
    assert caught.value.field == "metrics_address"
    assert "8002" in caught.value.hint


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 404 Not Found\r\n\r\nno", b"SSH-2.0-OpenSSH\r\n\r\n"])
def test_a_port_without_metrics_is_told(reply: bytes) -> None:
    def answer() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(reply)

    async def read(address: str) -> None:
        async with AsyncTritonClient(metrics_address=address) as client:
            await client.metrics()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with TritonClient(metrics_address=address) as client, pytest.raises(ConnectError, match="no metrics"):
            client.metrics()
        with pytest.raises(ConnectError, match="no metrics"):
            asyncio.run(read(address))
        thread.join()


def test_a_port_where_nobody_answers_is_told() -> None:
    async def read(address: str) -> None:
        async with AsyncTritonClient(metrics_address=address) as client:
            await client.metrics(timeout=0.1)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with TritonClient(metrics_address=address) as client, pytest.raises(ConnectError, match="time"):
            client.metrics(timeout=0.1)
        with pytest.raises(ConnectError, match="time"):
            asyncio.run(read(address))
    with TritonClient(metrics_address=address) as client, pytest.raises(ConnectError, match="refused"):
        client.metrics()
