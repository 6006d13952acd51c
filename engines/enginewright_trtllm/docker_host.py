"""Whether docker can run an image here, asked before the run: what it says then is buried in a log."""

from __future__ import annotations

import shutil
import subprocess

from enginewright_errors import StageFailed

__all__ = ["check_docker"]

_SECONDS = 60


def check_docker(image: str) -> None:
    """Raises StageFailed when docker is not installed, its daemon does not answer, or `image` is not here."""
    if shutil.which("docker") is None:
        raise StageFailed(
            "docker is not installed",
            code="no-docker",
            hint="install docker and the NVIDIA container toolkit, or run this inside " + image,
        )
    if problem := _problem("version", "--format", "{{.Server.Version}}"):
        raise StageFailed(
            f"docker does not work: {problem}",
            code="docker-daemon",
            hint="start its daemon, and let this user talk to it: `docker info` must work",
        )
    # Its tens of gigabytes would otherwise be fetched behind a line that says "starting".
    if _problem("image", "inspect", "--format", "{{.Id}}", image):
        raise StageFailed(
            f"the image {image} is not on this machine", code="no-image", hint=f"docker pull {image}"
        )


def _problem(*arguments: str) -> str:
    """The last line of what docker complains about; empty when it does not."""
    try:
        done = subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
