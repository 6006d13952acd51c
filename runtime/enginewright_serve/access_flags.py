"""How Triton is told who may use it. Its keys are not in the flags: `sealed_start` puts them there."""

from __future__ import annotations

import secrets
import sys

from enginewright_serve import sealed_start
from enginewright_serve.access import TOKEN_KEY, Access

__all__ = ["SEALED", "access_flags", "access_variables"]

SEALED = (sys.executable, "-I", sealed_start.__file__)
"""Before the command line of a Triton with these flags."""

_ADMIN_VARIABLE, _TOKEN_VARIABLE = "ENGINEWRIGHT_ADMIN_KEY", "ENGINEWRIGHT_TOKEN"
# Nobody needs these from outside: their key is made anew at every start and kept by nobody.
_ADMINISTRATION = f"shared-memory,model-repository,trace,logging:enginewright-admin=@{_ADMIN_VARIABLE}@"
# These a token opens. Health stays open, for orchestrators; it tells nothing.
_USE = f"inference,metadata,model-config,statistics:{TOKEN_KEY}=@{_TOKEN_VARIABLE}@"


def access_flags(access: Access, *, http: bool = False) -> tuple[str, ...]:
    """TLS, the token, and an administration that is closed. http: there is HTTP to be closed, too."""
    restricted = [_ADMINISTRATION, *([] if access.token is None else [_USE])]
    flags = [f"--grpc-restricted-protocol={rule}" for rule in restricted]
    if http:
        flags += [f"--http-restricted-api={rule}" for rule in restricted]
    if access.certificate is not None:
        flags += [
            f"--grpc-use-ssl{'-mutual' if access.client_ca else ''}=true",
            f"--grpc-server-cert={access.certificate.resolve()}",
            f"--grpc-server-key={(access.key or access.certificate).resolve()}",
        ]
    if access.client_ca is not None:
        flags.append(f"--grpc-root-cert={access.client_ca.resolve()}")
    return tuple(flags)


def access_variables(access: Access) -> dict[str, str]:
    """What `sealed_start` needs in its environment for these flags; the administration's key is a new one."""
    variables = {_ADMIN_VARIABLE: secrets.token_hex(16)}
    if access.token is not None:
        variables[_TOKEN_VARIABLE] = access.token
    return variables
