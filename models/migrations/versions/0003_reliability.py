"""Add what the handling of faults needs: dead letters, found quickly and replayed once."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

IS_DEAD_LETTER = sa.text(
    "status = 'failed' AND error_code IN ('attempts_exhausted', 'internal_error', 'internal_row_error',"
    " 'nonfinite_logits', 'out_of_memory', 'worker_crashed')"
)
DEAD_LETTERS = {
    "jobs_dead_letters": ["tenant", "finished_at", "id"],
    "jobs_dead_letters_of_all": ["finished_at", "id"],
}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("replayed_as", sa.Uuid()))
    for name, columns in DEAD_LETTERS.items():
        op.create_index(name, "jobs", columns, postgresql_where=IS_DEAD_LETTER, sqlite_where=IS_DEAD_LETTER)


def downgrade() -> None:
    for name in DEAD_LETTERS:
        op.drop_index(name, "jobs")
    op.drop_column("jobs", "replayed_as")
