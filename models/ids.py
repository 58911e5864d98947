"""Ids: UUIDv7 inside, readable prefixes outside. Knows nothing of where an id is stored."""

import re
import threading
import time
import uuid
from collections.abc import Callable
from uuid import UUID

from models.errors import NotFound
from models.randomness import random_bits

# What an id outside begins with, by endpoint of the job or by kind of thing.
PREFIXES = {
    "/v1/completions": "cmpl-",
    "/v1/chat/completions": "chatcmpl-",
    "/v1/responses": "resp_",
    "batch_req": "batch_req_",
    "batch": "batch_",
    "file": "file-",
    "message": "msg_",  # the one output item of a response; it has the job's UUID
}
JOB_ENDPOINTS = tuple(kind for kind in PREFIXES if kind.startswith("/"))
_HEX = r"([0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_JOB_ID = re.compile(r"(?:cmpl-|chatcmpl-|resp_|batch_req_)?" + _HEX, re.IGNORECASE)
_BATCH_ID = re.compile(r"(?:batch_)?" + _HEX, re.IGNORECASE)
_FILE_ID = re.compile(r"(?:file-)?" + _HEX, re.IGNORECASE)
MAX_ID_CHARS = 64  # longer text is no id of ours and is not looked at
_TASKS = UUID("5f0c7a38-9c0e-4b6e-8e0a-2b1d6c1a7d11")  # namespace of task ids that are not UUIDs

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62


def _rising(clock: Callable[[], int]) -> Callable[[], int]:
    """Make a clock strictly increasing within this process, whatever the machine's clock does."""
    lock = threading.Lock()
    last = 0

    def read() -> int:
        nonlocal last
        with lock:
            last = max(last + 1, clock())
            return last

    return read


def _now_ticks() -> int:
    """Now as 48 bits of milliseconds and 12 bits of their fraction, the head of a UUIDv7."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    return milliseconds << 12 | (nanoseconds << 12) // 1_000_000


_next_ticks = _rising(_now_ticks)
_next_nanoseconds = _rising(time.time_ns)


def next_seq() -> int:
    """The next place in the queue: nanoseconds since 1970 at acceptance, strictly increasing in a process."""
    return _next_nanoseconds()


def uuid7() -> UUID:
    """Make an id that sorts by time of creation (RFC 9562, 6.2 method 3); increasing within a process."""
    ticks = _next_ticks()
    head, fraction = ticks >> 12, ticks & 0xFFF
    return UUID(int=head << 80 | _VERSION_7 | fraction << 64 | _VARIANT | random_bits(62))


def first_id_of(moment: float) -> UUID:
    """What sorts before every id made from this moment on, in seconds since 1970, and after those made before."""
    return UUID(int=int(moment * 1000) << 80)


def public_id(kind: str, id: UUID) -> str:
    """Write an id as users see it: `kind` is an endpoint or one of batch_req, batch, file."""
    return PREFIXES[kind] + id.hex


def parse_job_id(text: str) -> UUID:
    """Read the id of a job: any job prefix or a bare UUID. Raises NotFound, without a query, on anything else."""
    return _parse(_JOB_ID, text)


def parse_batch_id(text: str) -> UUID:
    """Read the id of a batch; as parse_job_id."""
    return _parse(_BATCH_ID, text)


def parse_file_id(text: str) -> UUID:
    """Read the id of a file; as parse_job_id."""
    return _parse(_FILE_ID, text)


def job_id_of_task(task_id: str) -> UUID:
    """The job a Celery task id names: itself where it is an id of ours, else always the same UUID for the same text."""
    try:
        return parse_job_id(task_id)
    except NotFound:
        return uuid.uuid5(_TASKS, task_id)


def _parse(pattern: re.Pattern[str], text: str) -> UUID:
    match = pattern.fullmatch(text) if len(text) <= MAX_ID_CHARS else None
    if match is None:
        raise NotFound
    return UUID(match[1])
