"""Triton's metrics: Prometheus text over HTTP, without a library for either.

The request and the reading of its reply are here; the two clients move the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from enginewright_client._exceptions import ConnectError

__all__ = ["Metrics", "Sample", "http_request", "metrics_from_reply"]

_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})?[ \t]+(?P<value>\S+)(?:[ \t]+-?\d+)?"
)
_LABEL = re.compile(r'(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)="(?P<value>(?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of a metric.

    >>> Sample("nv_inference_count", {"model": "llm"}, 3.0).value
    3.0
    """

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """Everything that a server counts, at one moment.

    >>> metrics = Metrics.parse('tokens{kind="input"} 30\\ntokens{kind="output"} 8')
    >>> metrics.value("tokens", kind="output"), metrics.value("tokens"), metrics.value("other")
    (8.0, 38.0, None)
    """

    samples: tuple[Sample, ...]

    @staticmethod
    def parse(text: str) -> Metrics:
        """Prometheus' text format, version 0.0.4. A line that is none is left out."""
        samples = []
        for line in text.splitlines():
            found = _SAMPLE.fullmatch(line.strip())
            if found is None:
                continue
            labels = {
                label["name"]: _ESCAPE.sub(_unescape, label["value"])
                for label in _LABEL.finditer(found["labels"] or "")
            }
            try:
                samples.append(Sample(found["name"], labels, float(found["value"])))
            except ValueError:
                continue
        return Metrics(tuple(samples))

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples of that name with these labels; None if there are none."""
        found = [
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None


def http_request(address: str) -> bytes:
    """A request for /metrics. HTTP/1.0: the reply ends with the connection and is never chunked."""
    return f"GET /metrics HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode("ascii")


def metrics_from_reply(reply: bytes, address: str) -> Metrics:
    """The metrics in a whole HTTP reply. Raises ConnectError for any other."""
    head, separator, body = reply.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].split(b" ")
    if not separator or len(status) < 2 or not status[0].startswith(b"HTTP/") or status[1] != b"200":
        raise ConnectError(
            f"{address} gives no metrics: {head[:80].decode('ascii', 'replace')!r}",
            code="no-metrics",
            hint="give metrics_address=HOST:PORT of Triton's metrics, by default port 8002",
        )
    return Metrics.parse(body.decode("utf-8", "replace"))


def _unescape(escape: re.Match[str]) -> str:
    return "\n" if escape[1] == "n" else escape[1]
