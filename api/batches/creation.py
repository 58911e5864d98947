"""From a checked request to a committed batch. Requests sent inline become an input file, so there is one way in."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from api.errors import Conflict
from api.services import Services
from models.batch_requests import BatchRequest, RetryRequest, window_seconds
from models.errors import BatchmillError, BatchNotFinal, NotFound
from models.idempotency import Once
from models.ids import parse_file_id, uuid7
from models.records import BatchRecord, NewBatch, NewFile
from models.status import FINAL_BATCH, Status

log = logging.getLogger(__name__)

PURPOSE = "batch"
INPUT_KEPT_SECONDS = 30 * 24 * 3600  # as OpenAI keeps batch inputs, where the client says nothing
PAGE = 1000  # rows read at a time
BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Created:
    """The batch a request ended up as: its own, or with `replayed` one that an earlier request created."""

    id: UUID
    replayed: bool


def create_batch(services: Services, tenant: str, request: BatchRequest, once: Once | None) -> Created:
    """Commit a batch and have its input read. Raises NotFound, RequestError, IdempotencyKeyReused."""
    batch_id = uuid7()
    expiry = request.output_expires_after
    new: dict[str, Any] = {
        "id": batch_id,
        "tenant": tenant,
        "endpoint": request.endpoint,
        "completion_window": request.completion_window,
        "completion_window_seconds": window_seconds(request.completion_window),
        "priority": request.priority,
        "metadata": request.metadata,
        "output_expires_after_seconds": None if expiry is None else expiry.seconds,
        "max_attempts": request.max_attempts,
    }
    if request.requests is None:
        new["input_file_id"] = parse_file_id(request.input_file_id or "")
        return _commit(services, NewBatch(**new), once)
    lines = (orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in request.requests)
    return _commit_with_input(services, new, lines, once)


def retry_failed(services: Services, batch: BatchRecord, request: RetryRequest, once: Once | None) -> Created:
    """Commit a new batch of the lines whose rows failed. Raises Conflict where there are none, or no input any more."""
    if batch.status not in FINAL_BATCH:
        raise BatchNotFinal
    if not batch.num_failed:
        raise Conflict("no_failed_requests", "no request of the batch failed")
    window = request.completion_window
    new: dict[str, Any] = {
        "id": uuid7(),
        "tenant": batch.tenant,
        "endpoint": batch.endpoint,
        "completion_window": window or batch.completion_window,
        "completion_window_seconds": window_seconds(window) if window else batch.completion_window_seconds,
        "priority": batch.priority if request.priority is None else request.priority,
        "metadata": batch.metadata if request.metadata is None else request.metadata,
        "output_expires_after_seconds": batch.output_expires_after_seconds,
        "max_attempts": batch.max_attempts,
    }
    return _commit_with_input(services, new, _failed_lines(services, batch), once)


def _commit_with_input(services: Services, new: dict[str, Any], lines: Iterable[bytes], once: Once | None) -> Created:
    """Write the input, then commit the batch; an input that no batch came of is taken away again."""
    input_id = _write_input(services, new["tenant"], f"requests-of-{new['id']}.jsonl", lines)
    try:
        created = _commit(services, NewBatch(**new, input_file_id=input_id), once)
    except BatchmillError:
        _drop_input(services, new["tenant"], input_id)
        raise
    if created.replayed:
        _drop_input(services, new["tenant"], input_id)
    return created


def _drop_input(services: Services, tenant: str, input_id: UUID) -> None:
    """Take an input away. Where only the word of a commit was lost, the batch is there and keeps it; and one that
    cannot be deleted now goes when its time is over."""
    try:
        services.files.delete(input_id, tenant)
        services.blobs.delete(input_id)
    except BatchmillError as error:
        log.warning("input %s stays: %s", input_id, error, extra={"action": "input_not_dropped"})


def _commit(services: Services, new: NewBatch, once: Once | None) -> Created:
    if once is None:
        services.batches.create(new)
        created = Created(new.id, replayed=False)
    else:
        created = Created(*services.batches.create_once(new, once))
    services.broker.announce_batch(created.id)  # a replay too: the first try's word may have been lost with it
    return created


def _write_input(services: Services, tenant: str, filename: str, lines: Iterable[bytes]) -> UUID:
    """Store lines as a file of the tenant's."""
    file_id, num_bytes = uuid7(), 0
    with services.blobs.writer(file_id) as writer:
        for block in _blocks(lines):
            writer.write(block)
            num_bytes += len(block)
    try:
        services.files.create(NewFile(file_id, tenant, PURPOSE, filename, num_bytes, INPUT_KEPT_SECONDS))
    except BatchmillError:
        services.blobs.delete(file_id)  # as after an upload: bytes without a row would stay for ever
        raise
    return file_id


def _blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Few large writes instead of one a line."""
    block = bytearray()
    for line in lines:
        block += line
        if len(block) >= BUFFER_BYTES:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def _failed_lines(services: Services, batch: BatchRecord) -> Iterator[bytes]:
    """The lines of the input whose rows failed, as they were sent. Memory is a page of rows.

    Raises Conflict where the input is gone, and NotFound where the batch is deleted meanwhile, and its rows with it.
    """
    gone = Conflict("input_file_gone", "the input of the batch is not there any more, and its lines with it")
    if batch.input_file_id is None:
        raise gone
    wanted = _failed_numbers(services, batch.id)
    number, num_found = next(wanted, None), 0
    try:
        file = services.blobs.open(batch.input_file_id)
    except NotFound:
        raise gone from None
    with file:
        for place, line in enumerate(file, start=1):
            if number is None:
                break
            if place == number:
                yield line if line.endswith(b"\n") else line + b"\n"
                number, num_found = next(wanted, None), num_found + 1
    if num_found < batch.num_failed:
        raise NotFound


def _failed_numbers(services: Services, batch_id: UUID) -> Iterator[int]:
    """The line numbers of rows that failed, rising."""
    after = -1
    while rows := services.batches.results(batch_id, after_line=after, limit=PAGE, status=Status.FAILED):
        for row in rows:
            assert row.line is not None, "a row of a batch"
            yield row.line
            after = row.line
