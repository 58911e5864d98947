"""A running service over HTTP, for commands that may be on another machine. The standard library's client: what these
commands need of HTTP is little, and a command that only polls should not bring a dependency along."""

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

from models.errors import BatchmillError, ConfigurationError

DEFAULT_URL = "http://127.0.0.1:8000/v1"
TIMEOUT_SECONDS = 90.0  # above the longest wait the service grants
TRIES = 4
PAUSE_SECONDS = 0.5  # before the second try, then twice as long each time
BLOCK_BYTES = 1 << 20
RETRIED = (408, 429, 500, 502, 503, 504)
MAX_MESSAGE_CHARS = 500

Json = dict[str, Any]


class ServiceError(BatchmillError):
    """The service refused the request."""


class Unreachable(BatchmillError):
    """The service does not answer. Trying again may help."""


class Client:
    """Requests to one service, with its key. One whose answer is lost is sent again under the same key."""

    def __init__(self, url: str, key: str | None) -> None:
        """Raises ConfigurationError where the address is none, or the key cannot be sent."""
        if not _is_address(url):
            raise ConfigurationError(f"the service's address must be like {DEFAULT_URL}")
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ConfigurationError("the API key in BATCHMILL_API_KEY or OPENAI_API_KEY holds what is in no key")
        self.url = url.rstrip("/")
        self._key = key

    @classmethod
    def from_environment(cls, url: str) -> "Client":
        """The key is BATCHMILL_API_KEY's, or OPENAI_API_KEY's: on a command line others would see it."""
        return cls(url, os.environ.get("BATCHMILL_API_KEY") or os.environ.get("OPENAI_API_KEY"))

    def get(self, path: str, **query: str | float | None) -> Json:
        """Read. Raises ServiceError, Unreachable."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._json(self._request("GET", path + (f"?{urlencode(given)}" if given else "")))

    def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """Create or change. Raises ServiceError, Unreachable."""
        headers = {"content-type": "application/json", "idempotency-key": uuid.uuid4().hex}
        return self._json(self._request("POST", path, data=json.dumps(body).encode(), headers=headers))

    def upload(self, file: IO[bytes], name: str) -> Json:
        """Store a file of requests, streamed. Not tried again: it may be large, and its stream is used up."""
        boundary = uuid.uuid4().hex
        num_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quote(name)}"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        request = self._request(
            "POST",
            "/files",
            data=_joined(head, file, tail),
            headers={
                "content-type": f"multipart/form-data; boundary={boundary}",
                "content-length": str(len(head) + num_bytes + len(tail)),
            },
        )
        with _errors(self.url), urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            return _decoded(response)

    def download(self, file_id: str) -> Iterator[bytes]:
        """Read a file's content by blocks. Raises ServiceError, Unreachable, also in the middle."""
        request = self._request("GET", path_to("files", file_id, "content"))
        with _errors(self.url), urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            while block := response.read(BLOCK_BYTES):
                yield block
            if response.length:  # the library tells of a missing end only where it is asked for all at once
                raise Unreachable("the download broke off: try again")

    def _request(
        self,
        method: str,
        path: str,
        *,
        data: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Request:
        known = {"user-agent": "batchmill"} | ({"authorization": f"Bearer {self._key}"} if self._key else {})
        return Request(self.url + path, data=data, headers=known | dict(headers or {}), method=method)

    def _json(self, request: Request) -> Json:
        """Send, and again after a pause where the service or the way to it failed."""
        for number in range(TRIES):
            try:
                with _errors(self.url), urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                    return _decoded(response)
            except Unreachable:
                if number == TRIES - 1:
                    raise
            time.sleep(PAUSE_SECONDS * 2**number)
        raise AssertionError("the last try returns or raises")


def path_to(*parts: str) -> str:
    """The path to something of the service; an id that was typed is sent as it is, for the service to judge."""
    return "".join("/" + quote(part, safe="", errors="replace") for part in parts)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # brackets that hold no address
        return False


def _joined(head: bytes, file: IO[bytes], tail: bytes) -> Iterator[bytes]:
    yield head
    while block := file.read(BLOCK_BYTES):
        yield block
    yield tail


def _decoded(response: HTTPResponse) -> Json:
    body = json.loads(response.read())
    if not isinstance(body, dict):
        raise ServiceError("the answer is no JSON object: is this address a service's?")
    return body


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """The library's errors become ours, with a sentence that says what to do."""
    try:
        yield
    except HTTPError as error:
        raise _refusal(error) from None
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise Unreachable(
            f"no service answers at {url} ({reason}): start one with `batchmill serve`, or name another with --url"
        ) from error
    except json.JSONDecodeError:
        raise ServiceError(f"{url} does not answer as the service does: does the address end with /v1?") from None


def _refusal(error: HTTPError) -> BatchmillError:
    """What the service said, in its own words."""
    raw = error.read(1 << 16)
    try:
        said = json.loads(raw)["error"]
        text = f"{said['message']} ({said['code']})"
    except (ValueError, KeyError, TypeError):
        text = f"{error.url} answered {error.code} {error.reason}"
    if error.code == 401:
        text += "; give a key in BATCHMILL_API_KEY"
    may_retry = error.code in RETRIED and error.headers.get("x-should-retry") != "false"
    return (Unreachable if may_retry else ServiceError)(text[:MAX_MESSAGE_CHARS])
