"""The hot statements as PostgreSQL likes them: many rows in one statement, handed over as one JSON text.

(Arrays for unnest took psycopg six times as long to write.) Rows are looked up by primary key alone: with a bare
`status = 'queued'` beside it the planner may walk a partial index over the whole queue, seconds a claim at 100,000
queued rows. `|| ''` keeps it from that. Only rows in progress have an owner, so the fence needs no status.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, Row, text

from models import job_metadata
from models.packing import dump_json
from models.records import NewJob, Outcome
from models.rows import Moved, completion_values, job_values, outcome_values
from models.suspects import Level

_INSERT_JOBS = text("""
    WITH new AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:jobs AS json)) AS new (
            id uuid, seq bigint, tenant text, batch_id uuid, line integer, custom_id text, endpoint text, model text,
            priority smallint, deadline timestamptz, error_code text, error_message text,
            max_attempts smallint, suspicion smallint, level smallint, body text)
    ),
    stored AS (
        INSERT INTO jobs (id, seq, tenant, batch_id, line, custom_id, endpoint, model, priority, deadline,
                          error_code, error_message, max_attempts, status, finished_at, created_at,
                          suspicion, level, attempt, solo_crashes, cancel_requested)
        SELECT id, seq, tenant, batch_id, line, custom_id, endpoint, model, priority, deadline,
               error_code, error_message, max_attempts, CASE WHEN error_code IS NULL THEN 'queued' ELSE 'failed' END,
               CASE WHEN error_code IS NOT NULL THEN now() END, now(), suspicion, level,
               0, 0, false
        FROM new
        ON CONFLICT DO NOTHING
        RETURNING id, seq, batch_id, status
    ),
    kept AS (
        INSERT INTO payloads (job_id, body)
        SELECT stored.id, new.body FROM stored JOIN new ON new.id = stored.id AND new.seq = stored.seq
    )
    SELECT id, batch_id, status FROM stored
""")
# FOR KEY SHARE holds the reaper off until this commits, and lets the heartbeat pass.
_CLAIM = text("""
    WITH me AS MATERIALIZED (
        SELECT id FROM workers WHERE id = :worker AND lease_until > now() FOR KEY SHARE
    ),
    picked AS MATERIALIZED (
        SELECT job.id
        FROM me CROSS JOIN unnest(CAST(:ids AS uuid[])) AS hint (id)
        CROSS JOIN LATERAL (SELECT * FROM jobs WHERE jobs.id = hint.id FOR UPDATE SKIP LOCKED) AS job
        WHERE job.status || '' = 'queued' AND (job.deadline IS NULL OR job.deadline > now())
              AND job.level = :level
    ),
    taken AS (
        UPDATE jobs SET status = 'in_progress', owner = :worker, attempt = attempt + 1, started_at = now()
        FROM picked WHERE jobs.id = picked.id
        RETURNING jobs.id, attempt, endpoint, model, priority, deadline, suspicion, tenant
    )
    SELECT taken.*, payloads.body FROM taken JOIN payloads ON payloads.job_id = taken.id
""")
_FINISH = text("""
    WITH outcome AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:outcomes AS json)) AS outcome (
            id uuid, attempt integer, status text, error_code text, error_message text)
    ),
    finished AS (
        UPDATE jobs
        SET status = CASE WHEN jobs.cancel_requested THEN 'cancelled' ELSE outcome.status END,
            error_code = CASE WHEN NOT jobs.cancel_requested THEN outcome.error_code END,
            error_message = CASE WHEN NOT jobs.cancel_requested THEN outcome.error_message END,
            owner = NULL, finished_at = now()
        FROM outcome
        WHERE jobs.id = outcome.id AND jobs.owner = :worker AND jobs.attempt = outcome.attempt  -- the fence
        RETURNING jobs.id, jobs.batch_id, jobs.status
    ),
    stored AS (
        INSERT INTO completions (job_id, choice_index, text, token_ids, logprobs, prompt_token_ids, details,
                                 finish_reason, prompt_tokens, output_tokens, seed, fingerprint, created_at)
        SELECT job_id, choice_index, text, decode(token_ids, 'hex'), decode(logprobs, 'hex'),
               decode(prompt_token_ids, 'hex'), details, finish_reason, prompt_tokens, output_tokens, seed,
               fingerprint, now()
        FROM json_to_recordset(CAST(:choices AS json)) AS choice (
            job_id uuid, choice_index smallint, text text, token_ids text, logprobs text, prompt_token_ids text,
            details text, finish_reason text, prompt_tokens integer, output_tokens integer, seed bigint,
            fingerprint text)
        JOIN finished ON finished.id = choice.job_id AND finished.status = 'completed'
    )
    SELECT id, batch_id, status FROM finished
""")
_KEEP_KEYS = text("""
    INSERT INTO idempotency (tenant, key, path, body_hash, job_id, batch_id, created_at)
    SELECT tenant, key, path, decode(body_hash, 'hex'), job_id, batch_id, now()
    FROM json_to_recordset(CAST(:keys AS json)) AS new (
        tenant text, key text, path text, body_hash text, job_id uuid, batch_id uuid)
    ON CONFLICT (tenant, key) DO UPDATE
    SET path = excluded.path, body_hash = excluded.body_hash, job_id = excluded.job_id, batch_id = excluded.batch_id,
        created_at = excluded.created_at
    WHERE idempotency.created_at <= now() - make_interval(secs => :max_age_seconds)
    RETURNING tenant, key
""")


def insert_jobs(connection: Connection, new: Sequence[NewJob]) -> list[Moved]:
    """Store jobs with their bodies. Returns those stored: not one whose id, or custom_id in its batch, is there."""
    rows = [job_values(job) | {"body": dump_json(job.body)} for job in new]
    stored = [Moved(*row) for row in connection.execute(_INSERT_JOBS, {"jobs": _json(rows)})]
    job_metadata.keep(connection, new, stored)
    return stored


def keep_keys(
    connection: Connection, keys: Sequence[Mapping[str, Any]], *, max_age_seconds: float
) -> set[tuple[str, str]]:
    """Write rows of `idempotency`, replacing older ones. Returns tenant and key of those written; of the others the
    rows that are there are locked, in the order of `keys`."""
    written = connection.execute(_KEEP_KEYS, {"keys": _json(keys), "max_age_seconds": max_age_seconds})
    return {(row.tenant, row.key) for row in written}


def claim(connection: Connection, worker_id: UUID, ids: Sequence[UUID], level: Level) -> Sequence[Row[Any]]:
    """Make queued rows of this level of suspicion among `ids` the worker's own, if its lease lasts. Rows locked by
    another are left to it."""
    parameters = {"worker": worker_id, "ids": sorted(ids), "level": int(level)}
    return connection.execute(_CLAIM, parameters).all()


def finish(connection: Connection, worker_id: UUID, outcomes: Sequence[Outcome]) -> list[Moved]:
    """Write outcomes of attempts the worker still holds. Returns those rows, with the status as written."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.id)  # the order in which every transaction locks rows
    choices = [completion_values(outcome.id, choice) for outcome in ordered for choice in outcome.completions]
    parameters = {
        "worker": worker_id,
        "outcomes": _json([outcome_values(outcome) for outcome in ordered]),
        "choices": _json(choices),
    }
    return [Moved(*row) for row in connection.execute(_FINISH, parameters)]


def _json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as JSON; packed numbers as hexadecimal text."""
    return orjson.dumps(rows, default=bytes.hex).decode()
