"""Add what the handling of faults needs: dead letters, found quickly and replayed once; suspects,
found quickly."""

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
IS_SUSPECT = sa.text("status = 'queued' AND suspicion > 0")
DEAD_LETTERS = {
    "jobs_dead_letters": ["tenant", "finished_at", "id"],
    "jobs_dead_letters_of_all": ["finished_at", "id"],
}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("replayed_as", sa.Uuid()))
    for name, columns in DEAD_LETTERS.items():
        op.create_index(name, "jobs", columns, postgresql_where=IS_DEAD_LETTER, sqlite_where=IS_DEAD_LETTER)
    op.create_index("jobs_suspects", "jobs", ["model"], postgresql_where=IS_SUSPECT, sqlite_where=IS_SUSPECT)


def downgrade() -> None:
    op.drop_index("jobs_suspects", "jobs")
    for name in DEAD_LETTERS:
        op.drop_index(name, "jobs")
    op.drop_column("jobs", "replayed_as")
