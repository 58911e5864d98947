"""Idempotency keys: a request repeated with the same key finds what the first one stored."""

from uuid import UUID

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from models.columns import now
from models.errors import IdempotencyKeyReused
from models.records import NewJob
from models.tables import idempotency


def replayed_or_kept(connection: Connection, job: NewJob, *, key: str, path: str, body_hash: bytes) -> UUID | None:
    """Keep the key for this job (None), or find the job it was kept for. Waits for a first request in flight."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    values = {"tenant": job.tenant, "key": key, "path": path, "body_hash": body_hash, "job_id": job.id}
    keep = insert(idempotency).values(**values, created_at=now()).on_conflict_do_nothing()
    if connection.execute(keep.returning(idempotency.c.key)).first() is not None:
        return None
    same_key = (idempotency.c.tenant == job.tenant) & (idempotency.c.key == key)
    first = connection.execute(select(idempotency).where(same_key)).one()
    if first.path != path or bytes(first.body_hash) != body_hash or first.job_id is None:
        raise IdempotencyKeyReused
    return UUID(str(first.job_id))
