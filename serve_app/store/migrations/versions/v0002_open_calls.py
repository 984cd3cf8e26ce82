"""An index of the calls that are not over."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    live = sa.text("status IN ('queued', 'dialing', 'ringing', 'answered', 'in_progress')")
    op.create_index("ix_calls_open", "calls", ["updated_at"], sqlite_where=live, postgresql_where=live)


def downgrade() -> None:
    op.drop_index("ix_calls_open", "calls")
