"""What `enginewright serve` tells the models that it starts, through their environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ServeSettings", "read_serve_settings"]


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """probe_id: the request id of the supervisor's probes, which are nobody's requests; "" = no supervisor.

    restarts: how often this server was started again. log_requests: a line for every finished request.
    """

    probe_id: str = ""
    restarts: int = 0
    log_requests: bool = True


def read_serve_settings(environment: Mapping[str, str]) -> ServeSettings:
    """The settings in `environment`; a server that was started by hand has the defaults."""
    restarts = environment.get("ENGINEWRIGHT_RESTARTS", "")
    return ServeSettings(
        probe_id=environment.get("ENGINEWRIGHT_PROBE_ID", ""),
        restarts=int(restarts) if restarts.isdecimal() else 0,
        log_requests=environment.get("ENGINEWRIGHT_LOG_REQUESTS", "summary") != "off",
    )
