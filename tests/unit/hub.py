"""As much of the Hugging Face hub as it takes to serve one repository, on a port of this machine."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "tiny/llama"


class Hub(ThreadingHTTPServer):
    """The files of the one repository, and the names of those that were asked for."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.served: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        """What makes huggingface_hub ask here."""
        return QUIET | {"HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}"}


QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does."""

    server: Hub

    def do_GET(self) -> None:
        path, files = self.path.partition("?")[0], self.server.files
        if path.startswith(f"/{NAME}/resolve/{COMMIT}/"):
            self.send_file(path.removeprefix(f"/{NAME}/resolve/{COMMIT}/"))
        elif path.startswith(f"/api/models/{NAME}/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": digest(content)}
                for name, content in files.items()
            ]
            self.send(json.dumps(entries).encode())
        elif path.startswith(f"/api/models/{NAME}"):
            self.send(json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode())
        else:
            self.send(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def send_file(self, name: str) -> None:
        self.server.served.append(name)
        content = self.server.files[name]
        self.send(content, headers={"ETag": f'"{digest(content)}"', "X-Repo-Commit": COMMIT})

    def send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def serve_hub(files: Mapping[str, bytes]) -> Iterator[Hub]:
    """Serve a repository of these files until the block ends."""
    with Hub(files) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
