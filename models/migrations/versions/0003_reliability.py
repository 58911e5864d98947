"""Add what the handling of faults needs: dead letters, found quickly and replayed once; suspects,
found quickly; and what retention has deleted."""

import sqlalchemy as sa
from alembic import op

from models.columns import Timestamp

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

IS_DEAD_LETTER = sa.text(
    "status = 'failed' AND error_code IN ('attempts_exhausted', 'internal_error', 'internal_row_error',"
    " 'nonfinite_logits', 'out_of_memory', 'worker_crashed')"
)
IS_SUSPECT = sa.text("status = 'queued' AND suspicion > 0")
DEAD_LETTERS = {
    "jobs_dead_letters": ["tenant", "finished_at", "id"],
    "jobs_dead_letters_of_all": ["finished_at", "id"],
}
IS_UNPUBLISHED = sa.text("status = 'queued' AND published_at IS NULL")
EXPIRY = ("results_expired_at", "results_deleted_at")
HAS_EXPIRED = sa.text("results_expired_at IS NOT NULL")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("replayed_as", sa.Uuid()))
    for name, columns in DEAD_LETTERS.items():
        op.create_index(name, "jobs", columns, postgresql_where=IS_DEAD_LETTER, sqlite_where=IS_DEAD_LETTER)
    op.add_column("jobs", sa.Column("level", sa.SmallInteger(), nullable=False, server_default="0"))
    op.create_index("jobs_suspects", "jobs", ["model"], postgresql_where=IS_SUSPECT, sqlite_where=IS_SUSPECT)
    op.create_index(
        "jobs_lines",
        "jobs",
        ["model", "tenant", "priority", "seq"],
        postgresql_where=IS_UNPUBLISHED,
        sqlite_where=IS_UNPUBLISHED,
    )
    for name in EXPIRY:
        op.add_column("batches", sa.Column(name, Timestamp()))
    op.create_index(
        "batches_results_expired",
        "batches",
        ["results_expired_at"],
        postgresql_where=HAS_EXPIRED,
        sqlite_where=HAS_EXPIRED,
    )
    op.add_column("payloads", sa.Column("input_expired", sa.Boolean()))


def downgrade() -> None:
    op.drop_column("payloads", "input_expired")
    op.drop_index("batches_results_expired", "batches")
    for name in EXPIRY:
        op.drop_column("batches", name)
    op.drop_index("jobs_lines", "jobs")
    op.drop_index("jobs_suspects", "jobs")
    op.drop_column("jobs", "level")
    for name in DEAD_LETTERS:
        op.drop_index(name, "jobs")
    op.drop_column("jobs", "replayed_as")
