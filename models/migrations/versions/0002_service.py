"""Add what the HTTP service needs: keys, metadata to find jobs by, and how far the input of a batch is read."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from models.columns import Timestamp

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BATCHES: dict[str, Any] = {
    "output_file_id": sa.Uuid(),
    "error_file_id": sa.Uuid(),
    "output_expires_after_seconds": sa.Integer(),
    "num_requests": sa.BigInteger(),
    "input_read": sa.Boolean(),
    "intake_owner": sa.Uuid(),
    "completion_window": sa.Text(),
    "max_attempts": sa.SmallInteger(),
}


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def upgrade() -> None:
    op.add_column("files", sa.Column("batch_id", sa.Uuid()))
    op.create_index("files_expiring", "files", ["expires_at"])
    for name, kind in BATCHES.items():
        op.add_column("batches", sa.Column(name, kind))
    op.execute("UPDATE batches SET input_read = (status <> 'validating')")
    op.create_index("batches_output_file", "batches", ["output_file_id"])
    op.create_index("batches_error_file", "batches", ["error_file_id"])
    op.create_index(
        "batches_unread",
        "batches",
        ["created_at"],
        **_where("input_read = false AND status IN ('validating', 'in_progress')"),
    )
    op.create_index("batches_input_file", "batches", ["input_file_id"])
    op.add_column("jobs", sa.Column("max_attempts", sa.SmallInteger()))
    op.create_index(
        "jobs_failed",
        "jobs",
        ["batch_id", "line"],
        **_where("batch_id IS NOT NULL AND status = 'failed'"),
    )
    op.drop_index("jobs_listed", "jobs")
    op.create_index(
        "jobs_listed", "jobs", ["tenant", "endpoint", "status", "created_at", "id"], **_where("batch_id IS NULL")
    )
    op.create_index("idempotency_job", "idempotency", ["job_id"])
    op.create_index("idempotency_batch", "idempotency", ["batch_id"], **_where("batch_id IS NOT NULL"))
    op.create_table(
        "job_metadata",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "key", name="job_metadata_pkey"),
    )
    op.create_index("job_metadata_found", "job_metadata", ["tenant", "key", "value", "created_at", "job_id"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("created_at", Timestamp(), nullable=False),
        sa.Column("last_used_at", Timestamp(), nullable=True),
        sa.Column("expires_at", Timestamp(), nullable=True),
        sa.Column("revoked_at", Timestamp(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="api_keys_pkey"),
    )
    op.create_index("api_keys_listed", "api_keys", ["tenant", "created_at"])


def downgrade() -> None:
    op.drop_table("api_keys")
    op.drop_table("job_metadata")
    op.drop_index("idempotency_batch", "idempotency")
    op.drop_index("idempotency_job", "idempotency")
    op.drop_index("jobs_listed", "jobs")
    op.create_index("jobs_listed", "jobs", ["tenant", "created_at", "id"], **_where("batch_id IS NULL"))
    op.drop_index("jobs_failed", "jobs")
    op.drop_column("jobs", "max_attempts")
    op.drop_index("batches_input_file", "batches")
    op.drop_index("batches_unread", "batches")
    op.drop_index("batches_error_file", "batches")
    op.drop_index("batches_output_file", "batches")
    for name in BATCHES:
        op.drop_column("batches", name)
    op.drop_index("files_expiring", "files")
    op.drop_column("files", "batch_id")
