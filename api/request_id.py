"""Every answer carries x-request-id: the caller's own where it is sound, else a new one."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.randomness import random_hex

HEADER = "x-request-id"
SOUND = re.compile(r"[A-Za-z0-9._-]{1,128}")  # nothing that could forge a header or a log line


class RequestIds:
    """Middleware: note the id in the scope, for logs and errors, and set it on the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["request_id"] = request_id(Headers(scope=scope).get(HEADER, ""))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = scope["request_id"]
            await send(message)

        await self.app(scope, receive, send_with_id)


def request_id(given: str) -> str:
    """The given id, or a new one."""
    return given if SOUND.fullmatch(given) else f"req_{random_hex(16)}"
