"""How jobs outside batches come into the tables: many in one transaction, each remembered by its key if it has one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from models import dialects
from models.errors import IdempotencyKeyReused
from models.idempotency import Keyed, Once, remember
from models.records import NewJob

INSERT_CHUNK = 5000  # rows a statement: bounds memory and keeps each statement far from its timeout


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to be stored, and how it is remembered, if at all."""

    job: NewJob
    once: Once | None = None


class Submitted(NamedTuple):
    """The job that a submission ended up as: its own, or with `replayed` one that was stored before."""

    id: UUID
    replayed: bool


def store_jobs(connection: Connection, new: Sequence[NewJob]) -> None:
    """Store jobs; an id that is stored already is left as it is."""
    for start in range(0, len(new), INSERT_CHUNK):
        dialects.of(connection).insert_jobs(connection, new[start : start + INSERT_CHUNK])


def store_group(connection: Connection, group: Sequence[Submission]) -> list[Submitted | IdempotencyKeyReused]:
    """Store what is new; for each in turn where it is, or why it alone is refused."""
    keyed = [Keyed(submission.job, submission.once) for submission in group if submission.once is not None]
    found = iter(remember(connection, keyed) if keyed else ())
    results = [_result(submission, None if submission.once is None else next(found)) for submission in group]
    is_new = [isinstance(result, Submitted) and not result.replayed for result in results]
    store_jobs(connection, [submission.job for submission, new in zip(group, is_new, strict=True) if new])
    return results


def store_all(connection: Connection, group: Sequence[Submission]) -> list[Submitted]:
    """Store what is new of a group, in a transaction that ends with the first refusal. Raises IdempotencyKeyReused."""
    submitted = []
    for result in store_group(connection, group):
        if isinstance(result, IdempotencyKeyReused):
            raise result
        submitted.append(result)
    return submitted


def _result(submission: Submission, found: UUID | IdempotencyKeyReused | None) -> Submitted | IdempotencyKeyReused:
    if isinstance(found, IdempotencyKeyReused):
        return found
    return Submitted(submission.job.id, replayed=False) if found is None else Submitted(found, replayed=True)
