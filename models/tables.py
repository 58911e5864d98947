"""The tables, the same on PostgreSQL and SQLite. Their vocabulary is status.py's; CHECKs make a bug loud.

Hot rows (jobs) are narrow; wide values (payloads, completions) stand apart. There are no foreign keys: only the
store and the claims write, each write is one transaction, and a key per row would cost a third of the insert rate.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

from models.columns import Timestamp
from models.faults import IS_DEAD_LETTER

metadata = MetaData(naming_convention={"pk": "%(table_name)s_pkey", "ck": "%(table_name)s_%(constraint_name)s"})

# Rows updated four times in their life: leave room on the page, and vacuum after 1 % instead of 20 %.
HOT_ROWS = {
    "fillfactor": 80,
    "autovacuum_vacuum_scale_factor": 0.01,
    "autovacuum_vacuum_threshold": 5000,
    "autovacuum_vacuum_cost_delay": 0,
}
# Few rows, updated all the time: half a page free keeps each update on its page.
FEW_BUSY_ROWS = {"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01}

UNREAD = "input_read = false AND status IN ('validating', 'in_progress')"  # of batches; queries say it in these words

files = Table(
    "files",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),  # -1: a stream over rows that nobody measured yet
    Column("status", Text, nullable=False),
    Column("status_details", Text),
    Column("created_at", Timestamp, nullable=False),
    Column("expires_at", Timestamp),
    Column("batch_id", Uuid),  # of a batch's output or error file, which is a stream over its rows; else bytes are kept
    CheckConstraint("status IN ('uploaded', 'processed', 'error')", name="status"),
    Index("files_listed", "tenant", "created_at", "id"),
    Index("files_expiring", "expires_at"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Text),
    Column("status", Text, nullable=False),
    Column("fingerprint", Text),
    Column("input_file_id", Uuid),
    Column("completion_window_seconds", Integer),
    Column("priority", SmallInteger, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("errors", Text, nullable=False),
    Column("num_total", BigInteger, nullable=False),
    Column("num_completed", BigInteger, nullable=False),
    Column("num_failed", BigInteger, nullable=False),
    Column("num_cancelled", BigInteger, nullable=False),
    Column("num_expired", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("num_lines_read", BigInteger, nullable=False),
    Column("num_bytes_read", BigInteger, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("expires_at", Timestamp),
    Column("in_progress_at", Timestamp),
    Column("finalizing_at", Timestamp),
    Column("completed_at", Timestamp),
    Column("failed_at", Timestamp),
    Column("expired_at", Timestamp),
    Column("cancelling_at", Timestamp),
    Column("cancelled_at", Timestamp),
    # Ids of the files that the rows can be read as, given out once they are whole; made with the batch.
    Column("output_file_id", Uuid),
    Column("error_file_id", Uuid),
    Column("output_expires_after_seconds", Integer),
    Column("num_requests", BigInteger),  # what validation counted; null until then
    Column("input_read", Boolean),  # every line is a row; only then may the last row complete the batch
    Column("intake_owner", Uuid),  # the worker that reads the input, while its lease lasts
    Column("completion_window", Text),  # as it was written: 24h and 1d are as long
    Column("max_attempts", SmallInteger),  # of each of its rows; null: the worker's setting
    Column("results_expired_at", Timestamp),  # from then on nobody reads its rows, which are being deleted
    Column("results_deleted_at", Timestamp),  # none of them is left; its counts stay a while
    CheckConstraint(
        "status IN ('validating', 'in_progress', 'finalizing', 'completed', 'failed', 'cancelling', 'cancelled',"
        " 'expired')",
        name="status",
    ),
    CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
    CheckConstraint(
        "num_completed >= 0 AND num_failed >= 0 AND num_cancelled >= 0 AND num_expired >= 0"
        " AND num_completed + num_failed + num_cancelled + num_expired <= num_total",
        name="counts",
    ),
    CheckConstraint(
        "status NOT IN ('completed', 'cancelled', 'expired')"
        " OR num_completed + num_failed + num_cancelled + num_expired = num_total",
        name="final_when_all_rows_are",
    ),
    Index("batches_listed", "tenant", "created_at", "id"),
    Index("batches_fingerprint", "tenant", "fingerprint", "created_at"),
    Index("batches_output_file", "output_file_id"),
    Index("batches_error_file", "error_file_id"),
    # The few whose input is still to be read, so that looking for one costs nothing.
    Index("batches_unread", "created_at", postgresql_where=text(UNREAD), sqlite_where=text(UNREAD)),
    Index("batches_input_file", "input_file_id"),
    Index(
        "batches_results_expired",
        "results_expired_at",
        postgresql_where=text("results_expired_at IS NOT NULL"),
        sqlite_where=text("results_expired_at IS NOT NULL"),
    ),
    postgresql_with=FEW_BUSY_ROWS,
)
NUM_FINISHED = batches.c.num_completed + batches.c.num_failed + batches.c.num_cancelled + batches.c.num_expired

jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("batch_id", Uuid),
    Column("owner", Uuid),
    Column("deadline", Timestamp),
    Column("created_at", Timestamp, nullable=False),
    Column("published_at", Timestamp),
    Column("started_at", Timestamp),
    Column("finished_at", Timestamp),
    Column("line", Integer),
    Column("attempt", Integer, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("suspicion", SmallInteger, nullable=False),
    Column("level", SmallInteger, nullable=False, server_default="0"),  # models.suspects.Level
    Column("solo_crashes", SmallInteger, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("custom_id", Text),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("max_attempts", SmallInteger),  # null: the worker's setting
    Column("replayed_as", Uuid),  # of a dead letter: the job that does its work over again
    CheckConstraint(
        "status IN ('queued', 'in_progress', 'completed', 'failed', 'cancelled', 'expired')", name="status"
    ),
    CheckConstraint("(status = 'in_progress') = (owner IS NOT NULL)", name="in_progress_has_owner"),
    CheckConstraint("(status IN ('queued', 'in_progress')) = (finished_at IS NULL)", name="final_has_time"),
    CheckConstraint("status <> 'failed' OR error_code IS NOT NULL", name="failed_has_code"),
    CheckConstraint("status <> 'completed' OR attempt > 0", name="completed_was_claimed"),
    CheckConstraint("NOT (cancel_requested AND status IN ('queued', 'completed'))", name="cancel_is_obeyed"),
    CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
    CheckConstraint("(batch_id IS NULL) = (line IS NULL)", name="line_of_batch"),
    postgresql_with=HOT_ROWS,
)
# What no message announced yet: by urgency for a place in the queue, by owner for giving each its turn.
_UNPUBLISHED = (jobs.c.status == "queued") & jobs.c.published_at.is_(None)
Index(
    "jobs_unpublished",
    jobs.c.model,
    jobs.c.priority.desc(),
    jobs.c.seq,
    postgresql_where=_UNPUBLISHED,
    sqlite_where=_UNPUBLISHED,
)
Index(
    "jobs_lines",
    jobs.c.model,
    jobs.c.tenant,
    jobs.c.priority,
    jobs.c.seq,
    postgresql_where=_UNPUBLISHED,
    sqlite_where=_UNPUBLISHED,
)
# Apart from the others: with one index over both, a planner without statistics sorts the whole backlog.
_PUBLISHED = (jobs.c.status == "queued") & jobs.c.published_at.is_not(None)
Index(
    "jobs_published",
    jobs.c.model,
    jobs.c.published_at,
    postgresql_where=_PUBLISHED,
    sqlite_where=_PUBLISHED,
)
Index(
    "jobs_owner",
    jobs.c.owner,
    postgresql_where=jobs.c.status == "in_progress",
    sqlite_where=jobs.c.status == "in_progress",
)
# Rows held by a worker that crashed: few, and looked for all the time.
_SUSPECT = (jobs.c.status == "queued") & (jobs.c.suspicion > 0)
Index("jobs_suspects", jobs.c.model, postgresql_where=_SUSPECT, sqlite_where=_SUSPECT)
_HAS_DEADLINE = (jobs.c.status == "queued") & jobs.c.deadline.is_not(None)
Index("jobs_deadline", jobs.c.deadline, postgresql_where=_HAS_DEADLINE, sqlite_where=_HAS_DEADLINE)
# A refused duplicate keeps the custom_id it was refused for.
_COUNTS_AS_USED = jobs.c.batch_id.is_not(None) & (
    jobs.c.error_code.is_(None) | (jobs.c.error_code != "duplicate_custom_id")
)
Index(
    "jobs_custom_id",
    jobs.c.batch_id,
    jobs.c.custom_id,
    unique=True,
    postgresql_where=_COUNTS_AS_USED,
    sqlite_where=_COUNTS_AS_USED,
)
_IN_BATCH = jobs.c.batch_id.is_not(None)
Index("jobs_line", jobs.c.batch_id, jobs.c.line, unique=True, postgresql_where=_IN_BATCH, sqlite_where=_IN_BATCH)
# Few rows fail: what went wrong with a batch is found without reading all of it.
_FAILED = _IN_BATCH & (jobs.c.status == "failed")
Index("jobs_failed", jobs.c.batch_id, jobs.c.line, postgresql_where=_FAILED, sqlite_where=_FAILED)
# Dead letters by the time they failed, for their owner and for administrators: few rows, unless all goes wrong at once.
_IS_DEAD_LETTER = text(IS_DEAD_LETTER)
for _name, _columns in (("jobs_dead_letters", (jobs.c.tenant,)), ("jobs_dead_letters_of_all", ())):
    Index(
        _name,
        *_columns,
        jobs.c.finished_at,
        jobs.c.id,
        postgresql_where=_IS_DEAD_LETTER,
        sqlite_where=_IS_DEAD_LETTER,
    )
# Rows of a batch are listed through their batch. A list of every endpoint or status merges a few ranges of this index:
# so a rare one among millions is found as soon as any, for one entry a row.
_ALONE = jobs.c.batch_id.is_(None)
Index(
    "jobs_listed",
    jobs.c.tenant,
    jobs.c.endpoint,
    jobs.c.status,
    jobs.c.created_at,
    jobs.c.id,
    postgresql_where=_ALONE,
    sqlite_where=_ALONE,
)

# The metadata of jobs outside batches, for finding them by it; what is shown is in the payload.
job_metadata = Table(
    "job_metadata",
    metadata,
    Column("job_id", Uuid, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),  # the job's
    PrimaryKeyConstraint("job_id", "key"),
    Index("job_metadata_found", "tenant", "key", "value", "created_at", "job_id"),
)

payloads = Table(
    "payloads",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("body", Text, nullable=False),  # JSON text, not jsonb: jsonb refuses an escaped NUL
    Column("input_expired", Boolean),  # true: the prompt was taken out of it; null: it is whole
)

completions = Table(
    "completions",
    metadata,
    Column("job_id", Uuid, nullable=False),
    Column("choice_index", SmallInteger, nullable=False),
    Column("text", Text, nullable=False),
    Column("token_ids", LargeBinary, nullable=False),  # int32, little-endian
    Column("logprobs", LargeBinary),  # float32, little-endian, NaN where a token has none
    Column("prompt_token_ids", LargeBinary),
    Column("details", Text),  # JSON: token texts and top logprobs, where asked for
    Column("finish_reason", Text, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("seed", BigInteger),
    Column("fingerprint", Text),
    Column("created_at", Timestamp, nullable=False),
    PrimaryKeyConstraint("job_id", "choice_index"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("slot", Text, nullable=False),
    Column("hostname", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("max_model_len", Integer, nullable=False),
    Column("dtype", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("started_at", Timestamp, nullable=False),
    Column("heartbeat_at", Timestamp, nullable=False),
    Column("lease_until", Timestamp, nullable=False),
    CheckConstraint("lease_until >= heartbeat_at", name="lease"),
    postgresql_with=FEW_BUSY_ROWS,
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("body_hash", LargeBinary, nullable=False),
    Column("job_id", Uuid),
    Column("batch_id", Uuid),
    Column("status_code", SmallInteger),
    Column("response", Text),
    Column("created_at", Timestamp, nullable=False),
    PrimaryKeyConstraint("tenant", "key"),
    CheckConstraint("(job_id IS NULL) <> (batch_id IS NULL)", name="names_one_thing"),
    Index("idempotency_job", "job_id"),  # a key goes with its job, or with its batch, of which there are few
    Index(
        "idempotency_batch",
        "batch_id",
        postgresql_where=text("batch_id IS NOT NULL"),
        sqlite_where=text("batch_id IS NOT NULL"),
    ),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),  # the part of the key that is shown
    Column("tenant", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of the whole key
    Column("is_admin", Boolean, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("last_used_at", Timestamp),
    Column("expires_at", Timestamp),
    Column("revoked_at", Timestamp),
    Index("api_keys_listed", "tenant", "created_at"),
)
