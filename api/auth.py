"""Who may call. Until keys exist: everyone on this machine, nobody else unless the operator says so."""

import ipaddress
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.types import Scope

from api.errors import Unauthorized
from models.errors import ConfigurationError
from models.records import DEFAULT_TENANT
from models.settings import Settings

NO_KEYS_YET = "BATCHMILL_AUTH=keys is not available yet; use auto (this machine only) or open (no keys at all)"


def refuse_unsafe_bind(settings: Settings, host: str) -> None:
    """Raise ConfigurationError where the service would be open to a network without anyone having said so."""
    if settings.auth == "keys":
        raise ConfigurationError(NO_KEYS_YET)
    if settings.auth == "auto" and not is_loopback(host):
        raise ConfigurationError(
            f"{host} is reachable from other machines and there are no API keys yet:"
            " bind to 127.0.0.1, or set BATCHMILL_AUTH=open if a proxy or network guards this service"
        )


def is_loopback(host: str) -> bool:
    """Whether a name or address to bind to is this machine's own; an unknown name counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request acts: every row it reads or writes is the tenant's."""

    tenant: str
    is_admin: bool


def caller(request: Request) -> Caller:
    """Who calls. Raises Unauthorized."""
    local_only(request)
    return Caller(DEFAULT_TENANT, is_admin=True)


CallerDep = Annotated[Caller, Depends(caller)]


def local_only(request: Request) -> None:
    """The second wall, for auth=auto: whoever bound the socket, refuse what came in over a network."""
    if request.app.state.services.settings.auth == "auto" and not is_local(request.scope):
        raise Unauthorized


def is_local(scope: Scope) -> bool:
    """Whether the request came in on a loopback address; a Unix socket or a test has no address."""
    address = (scope.get("server") or (None,))[0]
    try:
        return address is None or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return True
