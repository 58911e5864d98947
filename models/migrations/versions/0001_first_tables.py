"""Make the first tables: files, batches, jobs, payloads, completions, workers, idempotency."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from models.columns import Timestamp

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.Column("input_file_id", sa.Uuid(), nullable=True),
        sa.Column("completion_window_seconds", sa.Integer(), nullable=True),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("errors", sa.Text(), nullable=False),
        sa.Column("num_total", sa.BigInteger(), nullable=False),
        sa.Column("num_completed", sa.BigInteger(), nullable=False),
        sa.Column("num_failed", sa.BigInteger(), nullable=False),
        sa.Column("num_cancelled", sa.BigInteger(), nullable=False),
        sa.Column("num_expired", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("num_lines_read", sa.BigInteger(), nullable=False),
        sa.Column("num_bytes_read", sa.BigInteger(), nullable=False),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("expires_at", Timestamp(), nullable=True),
        sa.Column("in_progress_at", Timestamp(), nullable=True),
        sa.Column("finalizing_at", Timestamp(), nullable=True),
        sa.Column("completed_at", Timestamp(), nullable=True),
        sa.Column("failed_at", Timestamp(), nullable=True),
        sa.Column("expired_at", Timestamp(), nullable=True),
        sa.Column("cancelling_at", Timestamp(), nullable=True),
        sa.Column("cancelled_at", Timestamp(), nullable=True),
        sa.CheckConstraint(
            "status IN ('validating', 'in_progress', 'finalizing', 'completed', 'failed', 'cancelling',"
            " 'cancelled', 'expired')",
            name=op.f("batches_status"),
        ),
        sa.CheckConstraint(
            "status NOT IN ('completed', 'cancelled', 'expired')"
            " OR num_completed + num_failed + num_cancelled + num_expired = num_total",
            name=op.f("batches_final_when_all_rows_are"),
        ),
        sa.CheckConstraint(
            "num_completed >= 0 AND num_failed >= 0 AND num_cancelled >= 0 AND num_expired >= 0"
            " AND num_completed + num_failed + num_cancelled + num_expired <= num_total",
            name=op.f("batches_counts"),
        ),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name=op.f("batches_priority")),
        sa.PrimaryKeyConstraint("id", name=op.f("batches_pkey")),
        postgresql_with={"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01},
    )
    op.create_index("batches_fingerprint", "batches", ["tenant", "fingerprint", "created_at"])
    op.create_index("batches_listed", "batches", ["tenant", "created_at", "id"])
    op.create_table(
        "completions",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("choice_index", sa.SmallInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("token_ids", sa.LargeBinary(), nullable=False),
        sa.Column("logprobs", sa.LargeBinary(), nullable=True),
        sa.Column("prompt_token_ids", sa.LargeBinary(), nullable=True),
        sa.Column("details", sa.Text(), nullable=True),
        sa.Column("finish_reason", sa.Text(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("output_tokens", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=True),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "choice_index", name=op.f("completions_pkey")),
    )
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_details", sa.Text(), nullable=True),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("expires_at", Timestamp(), nullable=True),
        sa.CheckConstraint("status IN ('uploaded', 'processed', 'error')", name=op.f("files_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("files_pkey")),
    )
    op.create_index("files_listed", "files", ["tenant", "created_at", "id"])
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("body_hash", sa.LargeBinary(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("status_code", sa.SmallInteger(), nullable=True),
        sa.Column("response", sa.Text(), nullable=True),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.CheckConstraint("(job_id IS NULL) <> (batch_id IS NULL)", name=op.f("idempotency_names_one_thing")),
        sa.PrimaryKeyConstraint("tenant", "key", name=op.f("idempotency_pkey")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("owner", sa.Uuid(), nullable=True),
        sa.Column("deadline", Timestamp(), nullable=True),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("published_at", Timestamp(), nullable=True),
        sa.Column("started_at", Timestamp(), nullable=True),
        sa.Column("finished_at", Timestamp(), nullable=True),
        sa.Column("line", sa.Integer(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("suspicion", sa.SmallInteger(), nullable=False),
        sa.Column("solo_crashes", sa.SmallInteger(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.CheckConstraint("(status = 'in_progress') = (owner IS NOT NULL)", name=op.f("jobs_in_progress_has_owner")),
        sa.CheckConstraint(
            "(status IN ('queued', 'in_progress')) = (finished_at IS NULL)", name=op.f("jobs_final_has_time")
        ),
        sa.CheckConstraint(
            "NOT (cancel_requested AND status IN ('queued', 'completed'))", name=op.f("jobs_cancel_is_obeyed")
        ),
        sa.CheckConstraint("status <> 'completed' OR attempt > 0", name=op.f("jobs_completed_was_claimed")),
        sa.CheckConstraint("status <> 'failed' OR error_code IS NOT NULL", name=op.f("jobs_failed_has_code")),
        sa.CheckConstraint(
            "status IN ('queued', 'in_progress', 'completed', 'failed', 'cancelled', 'expired')",
            name=op.f("jobs_status"),
        ),
        sa.CheckConstraint("(batch_id IS NULL) = (line IS NULL)", name=op.f("jobs_line_of_batch")),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name=op.f("jobs_priority")),
        sa.PrimaryKeyConstraint("id", name=op.f("jobs_pkey")),
        postgresql_with={
            "fillfactor": 80,
            "autovacuum_vacuum_scale_factor": 0.01,
            "autovacuum_vacuum_threshold": 5000,
            "autovacuum_vacuum_cost_delay": 0,
        },
    )
    op.create_index(
        "jobs_custom_id",
        "jobs",
        ["batch_id", "custom_id"],
        unique=True,
        **_where("batch_id IS NOT NULL AND (error_code IS NULL OR error_code != 'duplicate_custom_id')"),
    )
    op.create_index("jobs_deadline", "jobs", ["deadline"], **_where("status = 'queued' AND deadline IS NOT NULL"))
    op.create_index("jobs_line", "jobs", ["batch_id", "line"], unique=True, **_where("batch_id IS NOT NULL"))
    op.create_index("jobs_listed", "jobs", ["tenant", "created_at", "id"], **_where("batch_id IS NULL"))
    op.create_index("jobs_owner", "jobs", ["owner"], **_where("status = 'in_progress'"))
    op.create_index(
        "jobs_published",
        "jobs",
        ["model", "published_at"],
        **_where("status = 'queued' AND published_at IS NOT NULL"),
    )
    op.create_index(
        "jobs_unpublished",
        "jobs",
        ["model", sa.text("priority DESC"), "seq"],
        **_where("status = 'queued' AND published_at IS NULL"),
    )
    op.create_table(
        "payloads",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("payloads_pkey")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("max_model_len", sa.Integer(), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("started_at", Timestamp(), nullable=False),
        sa.Column("heartbeat_at", Timestamp(), nullable=False),
        sa.Column("lease_until", Timestamp(), nullable=False),
        sa.CheckConstraint("lease_until >= heartbeat_at", name=op.f("workers_lease")),
        sa.PrimaryKeyConstraint("id", name=op.f("workers_pkey")),
        postgresql_with={"fillfactor": 50, "autovacuum_vacuum_scale_factor": 0.01},
    )


def downgrade() -> None:
    for table in ("workers", "payloads", "jobs", "idempotency", "files", "completions", "batches"):
        op.drop_table(table)
