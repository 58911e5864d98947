"""A client that sends its request and goes: once the job is stored, however long that takes, or in the midst of it."""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from uuid import UUID

import httpx
from sqlalchemy import select

from models.database import Database
from models.tables import jobs
from tests.waiting import wait_until


def only_job(database: Database) -> UUID | None:
    """The one job that was stored, if one was."""
    with database.read() as connection:
        return connection.scalars(select(jobs.c.id)).one_or_none()


@contextmanager
def asking(
    server: httpx.Client, database: Database, path: str, body: object, headers: Mapping[str, str] | None = None
) -> Iterator[UUID]:
    """POST what will be the only job; its id. The answer is waited for until the end of the block, and never read."""
    content = json.dumps(body).encode()
    with socket.create_connection((server.base_url.host, server.base_url.port)) as connection:
        connection.sendall(_head(path, len(content), headers or {}) + content)
        wait_until(lambda: only_job(database))
        job_id = only_job(database)
        assert job_id is not None
        yield job_id


def hang_up_when_stored(
    server: httpx.Client, database: Database, path: str, body: object, headers: Mapping[str, str] | None = None
) -> UUID:
    """POST, and hang up once the job is there; its id."""
    with asking(server, database, path, body, headers) as job_id:
        return job_id


def hang_up_midway(server: httpx.Client, path: str) -> None:
    """POST less than was announced, and hang up."""
    with socket.create_connection((server.base_url.host, server.base_url.port)) as connection:
        connection.sendall(_head(path, 100, {}) + b'{"model":')


def _head(path: str, num_bytes: int, headers: Mapping[str, str]) -> bytes:
    fields = {"host": "localhost", "content-type": "application/json", "content-length": str(num_bytes), **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
