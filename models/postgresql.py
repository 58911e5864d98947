"""The hot statements as PostgreSQL likes them: many rows in one statement, by arrays.

Rows are looked up by primary key alone. With a bare `status = 'queued'` or `owner = ...` beside it the planner may
walk a partial index over the whole queue (seconds a claim at 100,000 queued rows); `|| ''` keeps it from that.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from models.packing import dump_json
from models.records import NewJob, Outcome
from models.rows import Moved, completion_values, in_columns, job_values, outcome_values

_INSERT_JOBS = text("""
    INSERT INTO jobs (id, seq, tenant, batch_id, line, custom_id, endpoint, model, priority, deadline,
                      error_code, error_message, status, finished_at, created_at,
                      attempt, suspicion, solo_crashes, cancel_requested)
    SELECT new.*, CASE WHEN error_code IS NULL THEN 'queued' ELSE 'failed' END,
           CASE WHEN error_code IS NOT NULL THEN now() END, now(), 0, 0, 0, false
    FROM unnest(CAST(:id AS uuid[]), CAST(:seq AS bigint[]), CAST(:tenant AS text[]), CAST(:batch_id AS uuid[]),
                CAST(:line AS integer[]), CAST(:custom_id AS text[]), CAST(:endpoint AS text[]),
                CAST(:model AS text[]), CAST(:priority AS smallint[]), CAST(:deadline AS timestamptz[]),
                CAST(:error_code AS text[]), CAST(:error_message AS text[]))
         AS new (id, seq, tenant, batch_id, line, custom_id, endpoint, model, priority, deadline,
                 error_code, error_message)
    ON CONFLICT DO NOTHING
    RETURNING id, batch_id, status
""")
_JOB_COLUMNS = (
    *("id", "seq", "tenant", "batch_id", "line", "custom_id", "endpoint", "model", "priority", "deadline"),
    *("error_code", "error_message"),
)
_INSERT_PAYLOADS = text("""
    INSERT INTO payloads (job_id, body) SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:bodies AS text[]))
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
    ),
    taken AS (
        UPDATE jobs SET status = 'in_progress', owner = :worker, attempt = attempt + 1, started_at = now()
        FROM picked WHERE jobs.id = picked.id
        RETURNING jobs.*
    )
    SELECT taken.*, payloads.body FROM taken JOIN payloads ON payloads.job_id = taken.id
""")
_FINISH = text("""
    WITH outcome AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:id AS uuid[]), CAST(:attempt AS integer[]), CAST(:status AS text[]),
                             CAST(:error_code AS text[]), CAST(:error_message AS text[]))
             AS outcome (id, attempt, status, error_code, error_message)
    ),
    finished AS (
        UPDATE jobs
        SET status = CASE WHEN jobs.cancel_requested THEN 'cancelled' ELSE outcome.status END,
            error_code = CASE WHEN NOT jobs.cancel_requested THEN outcome.error_code END,
            error_message = CASE WHEN NOT jobs.cancel_requested THEN outcome.error_message END,
            owner = NULL, finished_at = now()
        FROM outcome
        WHERE jobs.id = outcome.id AND jobs.status || '' = 'in_progress'
          AND CAST(jobs.owner AS text) = :worker AND jobs.attempt = outcome.attempt
        RETURNING jobs.id, jobs.batch_id, jobs.status
    ),
    stored AS (
        INSERT INTO completions (job_id, choice_index, text, token_ids, logprobs, prompt_token_ids, details,
                                 finish_reason, prompt_tokens, output_tokens, seed, fingerprint, created_at)
        SELECT new.*, now()
        FROM unnest(CAST(:job_id AS uuid[]), CAST(:choice_index AS smallint[]), CAST(:text AS text[]),
                    CAST(:token_ids AS bytea[]), CAST(:logprobs AS bytea[]), CAST(:prompt_token_ids AS bytea[]),
                    CAST(:details AS text[]), CAST(:finish_reason AS text[]), CAST(:prompt_tokens AS integer[]),
                    CAST(:output_tokens AS integer[]), CAST(:seed AS bigint[]), CAST(:fingerprint AS text[]))
             AS new (job_id, choice_index, text, token_ids, logprobs, prompt_token_ids, details, finish_reason,
                     prompt_tokens, output_tokens, seed, fingerprint)
        JOIN finished ON finished.id = new.job_id AND finished.status = 'completed'
    )
    SELECT id, batch_id, status FROM finished
""")
_OUTCOME_COLUMNS = ("id", "attempt", "status", "error_code", "error_message")
_COMPLETION_COLUMNS = (
    *("job_id", "choice_index", "text", "token_ids", "logprobs", "prompt_token_ids", "details"),
    *("finish_reason", "prompt_tokens", "output_tokens", "seed", "fingerprint"),
)


def insert_jobs(connection: Connection, new: Sequence[NewJob]) -> list[Moved]:
    """Store jobs with their bodies. Returns those stored: not one whose id, or custom_id in its batch, is there."""
    if not new:
        return []
    rows = connection.execute(_INSERT_JOBS, in_columns([job_values(job) for job in new], _JOB_COLUMNS))
    moved = [Moved(*row) for row in rows]
    body_of = {job.id: job.body for job in reversed(new)}
    bodies = [dump_json(body_of[row.id]) for row in moved]
    connection.execute(_INSERT_PAYLOADS, {"ids": [row.id for row in moved], "bodies": bodies})
    return moved


def claim(connection: Connection, worker_id: UUID, ids: Sequence[UUID]) -> Sequence[Row[Any]]:
    """Make queued rows among `ids` the worker's own, if its lease lasts. Rows locked by another are left to it."""
    return connection.execute(_CLAIM, {"worker": worker_id, "ids": sorted(ids)}).all()


def finish(connection: Connection, worker_id: UUID, outcomes: Sequence[Outcome]) -> list[Moved]:
    """Write outcomes of attempts the worker still holds. Returns those rows, with the status as written."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.id)  # the order in which every transaction locks rows
    completions = [completion_values(outcome.id, choice) for outcome in ordered for choice in outcome.completions]
    values = in_columns([outcome_values(outcome) for outcome in ordered], _OUTCOME_COLUMNS)
    values |= in_columns(completions, _COMPLETION_COLUMNS)
    return [Moved(*row) for row in connection.execute(_FINISH, values | {"worker": str(worker_id)})]
