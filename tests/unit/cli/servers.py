"""An HTTP server of a few lines, which answers as it is told."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Answers as it is told, one answer a request, and keeps what it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.got: list[tuple[str, str, dict[str, str], bytes]] = []

    def answer(self, status: int, body: Any, **headers: str) -> None:  # noqa: ANN401 (JSON)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append((status, headers, body if isinstance(body, bytes) else json.dumps(body).encode()))


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.got.append((self.command, self.path, headers, content))
        status, more, body = self.server.answers.pop(0)
        self.send_response(status)
        for name, value in ({"content-length": str(len(body)), "connection": "close"} | more).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass
