"""HTTP/1.1 as uvicorn reads it, with an end to how large a request's head may be: httptools itself knows none, and
would keep what a client sends for as long as it sends."""

from typing import Any

import orjson
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.errors import INVALID, error_body
from api.request_id import HEADER, request_id

MAX_HEAD_BYTES = 64 << 10  # names and values, or of a head that is not whole what came of it
MAX_HEADERS = 128
STATUS = 431


class LimitedHead(HttpToolsProtocol):
    """Answers a head over the limits with 431 and hangs up."""

    _num_waiting_bytes = 0  # of a head that is not whole
    _is_in_head = False

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head has no end."""
        super().data_received(data)
        if not self._is_in_head:
            return
        self._num_waiting_bytes += len(data)
        if self._num_waiting_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_raw_answer())
            self.transport.close()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._is_in_head, self._num_waiting_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole: whoever sent too much is answered in the application's place."""
        self._is_in_head = False
        num_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if len(self.headers) > MAX_HEADERS or num_bytes > MAX_HEAD_BYTES:
            self.app = _refuse
        super().on_headers_complete()


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as an application."""
    body, headers = _answer()
    await send({"type": "http.response.start", "status": STATUS, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _raw_answer() -> bytes:
    body, headers = _answer()
    lines = [b"HTTP/1.1 %d Request Header Fields Too Large" % STATUS, *(b"%s: %s" % header for header in headers)]
    return b"\r\n".join([*lines, b"", body])


def _answer() -> tuple[bytes, list[tuple[bytes, bytes]]]:
    message = f"the request's headers may be {MAX_HEADERS} and have {MAX_HEAD_BYTES} bytes at most"
    body: Any = error_body(message=message, type=INVALID, code="headers_too_large")
    content = orjson.dumps(body)
    headers = {
        "content-type": "application/json",
        "content-length": str(len(content)),
        "connection": "close",
        HEADER: request_id(""),
    }
    return content, [(name.encode(), value.encode()) for name, value in headers.items()]
