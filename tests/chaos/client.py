"""A client of the service, over HTTP alone: it asks again until it is answered, as blindly as clients do."""

import threading
import time
from typing import Any

import httpx

from tests.chaos.journal import Journal

TIMEOUT_SECONDS = 3.0  # for one answer; then it is asked for again
PAUSE_SECONDS = 0.1
UNAVAILABLE = 503
IN_FLIGHT = "idempotency_in_progress"  # a code of 409: the first request under the key is not answered yet


class NoAnswer(Exception):
    """The service gave none in all the time there was."""


class Client:
    """One connection pool; `patience_seconds` is how long one request is repeated."""

    def __init__(self, url: str, journal: Journal, *, patience_seconds: float, stop: threading.Event) -> None:
        self._http = httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS)
        self._journal, self._stop = journal, stop
        self._patience_seconds = patience_seconds

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401 (httpx's)
        """Send until there is an answer that asking again would not change. Raises NoAnswer."""
        ends = time.monotonic() + self._patience_seconds
        while time.monotonic() < ends:
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError:
                self._journal.count("answers lost")
            else:
                if not self._is_to_repeat(response):
                    self._judge(method, path, response)
                    return response
            if self._stop.wait(PAUSE_SECONDS):
                break
        raise NoAnswer(f"{method} {path}")

    def _is_to_repeat(self, response: httpx.Response) -> bool:
        if response.status_code == UNAVAILABLE:
            self._journal.count("answers of 503")
            if "retry-after" not in response.headers:
                self._journal.violated("a 503 without Retry-After")
            return True
        return response.status_code == httpx.codes.CONFLICT and IN_FLIGHT in response.text

    def _judge(self, method: str, path: str, response: httpx.Response) -> None:
        """Of the service's own errors only 503 is allowed, and every request here is sound."""
        if response.is_server_error or (response.is_client_error and response.status_code != httpx.codes.CONFLICT):
            self._journal.violated(f"{response.status_code} to {method} {path}: {response.text[:200]}")
