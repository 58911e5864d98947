"""Who may call, and on whose behalf.

`keys`: whoever has a key. `open`: everyone. `auto`: everyone on this machine until the first key is made, then as
`keys`; nobody from elsewhere before. What proxies say in headers (X-Forwarded-For, Host) decides nothing.
"""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.types import Scope

from api.errors import InsufficientScope, InvalidKey, Unauthorized
from api.services import Services, ServicesDep
from models.errors import ConfigurationError
from models.keys import parse_key
from models.records import DEFAULT_TENANT
from models.settings import Settings

SCHEME = "key"
Credentials = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, scheme_name=SCHEME, description="An API key: bm_...")),
]


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request acts: every row it reads or writes is the tenant's."""

    tenant: str
    is_admin: bool


# Without a key nobody is an administrator: who can make keys decides who else gets in. The first admin key is made on
# the command line, by somebody who can reach the database anyway.
ANYBODY = Caller(DEFAULT_TENANT, is_admin=False)


async def caller(request: Request, services: ServicesDep, credentials: Credentials) -> Caller:
    """Who calls. Raises Unauthorized or InvalidKey.

    Where no key is asked for, one of another form is ignored: the official client always sends some. One of our form
    means its tenant, so a wrong or revoked one is refused there too, rather than its work put before everyone.
    """
    return await _caller(request, services, "" if credentials is None else credentials.credentials.strip())


async def caller_of(request: Request) -> Caller:
    """As `caller`, for a route that is called so often that finding out by dependencies (a third of what accepting a
    job costs) is too dear."""
    scheme, text = get_authorization_scheme_param(request.headers.get("authorization"))
    return await _caller(request, request.app.state.services, text.strip() if scheme.lower() == "bearer" else "")


async def _caller(request: Request, services: Services, text: str) -> Caller:
    presented = parse_key(text)
    if presented is not None:
        key = await services.keyring.find(presented)
        if key is None:
            raise InvalidKey
        return Caller(key.tenant, key.is_admin)
    if await _takes_anybody(request, services):
        return ANYBODY
    raise InvalidKey if text else Unauthorized


# What a route that asks caller_of says of itself in the API's description.
NEEDS_KEY: dict[str, Any] = {"security": [{SCHEME: []}]}
CallerDep = Annotated[Caller, Depends(caller)]


async def admin(caller: CallerDep) -> Caller:
    """Whoever calls, if an administrator's key was sent. Raises InsufficientScope."""
    if not caller.is_admin:
        raise InsufficientScope
    return caller


AdminDep = Annotated[Caller, Depends(admin)]


async def _takes_anybody(request: Request, services: Services) -> bool:
    """Whether no key is needed here and now."""
    if services.settings.auth != "auto":
        return services.settings.auth == "open"
    return is_local(request.scope) and not await services.keyring.exists()


def refuse_unsafe_bind(settings: Settings, host: str, has_keys: Callable[[], bool]) -> None:
    """Raise ConfigurationError where nobody but this machine could be let in, and the address is a network's."""
    if settings.auth == "auto" and not is_loopback(host) and not has_keys():
        raise ConfigurationError(
            f"{host} is reachable from other machines and there are no API keys yet:"
            " make one with `batchmill keys create NAME`, bind to 127.0.0.1,"
            " or set BATCHMILL_AUTH=open if a proxy or network guards this service"
        )


def protection(settings: Settings, has_keys: bool) -> str:
    """How the service is protected, in one line for whoever starts it."""
    make_one = "make a key with `batchmill keys create NAME`"
    if settings.auth == "open":
        return "no API key is asked for (BATCHMILL_AUTH=open)"
    if has_keys:
        return "every request needs an API key"
    if settings.auth == "keys":
        return f"every request needs an API key, and there is none yet: {make_one}"
    return f"open to every program on this machine; to protect it {make_one}"


def is_loopback(host: str) -> bool:
    """Whether a name or address to bind to is this machine's own; an unknown name counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_local(scope: Scope) -> bool:
    """Whether the request came in on a loopback address; a Unix socket or a test has no address."""
    address = (scope.get("server") or (None,))[0]
    try:
        return address is None or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return True
