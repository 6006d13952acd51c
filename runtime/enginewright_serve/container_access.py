"""A server's secrets for a container, whose user is not this one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from enginewright_serve import sealed_start
from enginewright_serve.access import Access

__all__ = ["ACCESS_MOUNT", "SEALED_IN_CONTAINER", "access_in_container", "copy_access"]

ACCESS_MOUNT = "/run/enginewright"
"""Where `copy_access`'s folder is mounted, read-only."""

_SCRIPT = "sealed_start.py"
SEALED_IN_CONTAINER = ("python3", "-I", f"{ACCESS_MOUNT}/{_SCRIPT}")
"""Before the command line of a Triton with `access_flags` in that container."""


def copy_access(access: Access, folder: Path) -> None:
    """Copy the TLS files and `sealed_start` into the new `folder`.

    The container's user has to read the key, so all may, who come so far: `folder` has to be in one that only
    its owner enters, which does not matter to a mount.
    """
    folder.mkdir()
    copied = access_in_container(access)
    for source, place in (
        (Path(sealed_start.__file__), Path(_SCRIPT)),
        (access.certificate, copied.certificate),
        (access.key, copied.key),
        (access.client_ca, copied.client_ca),
    ):
        if source is not None and place is not None:
            shutil.copyfile(source, folder / place.name)
            (folder / place.name).chmod(0o444)
    folder.chmod(0o755)


def access_in_container(access: Access) -> Access:
    """`access` by the paths of its copies in the container."""

    def place(file: Path | None, name: str) -> Path | None:
        return None if file is None else Path(ACCESS_MOUNT, name)

    return replace(
        access,
        certificate=place(access.certificate, "server.pem"),
        key=place(access.key, "server.key"),
        client_ca=place(access.client_ca, "client-ca.pem"),
    )
