"""Short ways to batches: files of requests, and a worker that reads them in when it is told to."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson
from fastapi import FastAPI

from api.services import Services
from models.batch_lines import parse_line
from models.ids import parse_batch_id, uuid7
from models.records import BatchRecord, NewFile, NewJob
from tests.integration.api.fakes import Worker

Json = dict[str, Any]
TENANT = "default"


def request_line(number: int, **body: Any) -> Json:  # noqa: ANN401 (any field)
    """A line of a batch file."""
    full = {"model": "demo", "prompt": f"prompt {number}", "max_tokens": 4, **body}
    return {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/completions", "body": full}


def stored_file(
    app: FastAPI, lines: Sequence[Mapping[str, Any]], *, purpose: str = "batch", tenant: str = TENANT
) -> str:
    """The id of an uploaded file."""
    services: Services = app.state.services
    file_id, content = uuid7(), b"".join(orjson.dumps(line) + b"\n" for line in lines)
    with services.blobs.writer(file_id) as writer:
        writer.write(content)
    services.files.create(NewFile(file_id, tenant, purpose, "in.jsonl", len(content)))
    return f"file-{file_id.hex}"


class Intake:
    """Reads a batch's input as a worker's intake does, as far as the test says."""

    def __init__(self, app: FastAPI, worker: Worker) -> None:
        self._services: Services = app.state.services
        self._worker = worker

    def take(self, batch_id: str) -> BatchRecord:
        """Begin to read."""
        batch = self._services.batches.take_intake(self._worker.id)
        assert batch is not None
        assert batch.id == parse_batch_id(batch_id)
        return batch

    def read(self, batch_id: str) -> list[UUID]:
        """Check the input and make rows of it; the ids of those that are queued."""
        batch, owner = self.take(batch_id), self._worker.id
        assert batch.input_file_id is not None
        with self._services.blobs.open(batch.input_file_id) as file:
            rows = [_row(batch, number, raw) for number, raw in enumerate(file, start=1)]
        self._services.batches.validated(batch.id, owner, len(rows))
        self._services.batches.append(batch.id, rows, num_lines=len(rows), num_bytes=0, owner=owner)
        self._services.batches.end_intake(batch.id, owner)
        return [row.id for row in rows if row.error is None]

    def refuse(self, batch_id: str, code: str, line: int) -> None:
        """Find the input bad."""
        batch = self.take(batch_id)
        errors = [{"code": code, "message": f"line {line} is bad", "param": None, "line": line}]
        self._services.batches.fail(batch.id, errors, self._worker.id)


def _row(batch: BatchRecord, number: int, raw: bytes) -> NewJob:
    line = parse_line(raw.rstrip(b"\n"), resolve=lambda model: model or "demo", max_bytes=1 << 20)
    assert line.error is None, line.error
    return NewJob(
        uuid7(),
        "demo",
        line.endpoint,
        line.body,
        tenant=batch.tenant,
        custom_id=line.custom_id,
        batch_id=batch.id,
        line=number,
    )
