"""Numbers that must not be called, and when a callee asked for it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("calls", sa.Column("opted_out_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "do_not_call",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("number", sa.String(32), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("call_id", sa.String(36), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("removed_by", sa.String(100), nullable=True),
        sa.Column("removed_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_do_not_call"),
    )
    listed = sa.text("removed_at IS NULL")
    op.create_index(
        "one_listed",
        "do_not_call",
        ["tenant_id", "number"],
        unique=True,
        sqlite_where=listed,
        postgresql_where=listed,
    )
    op.create_index("ix_do_not_call_tenant_id_id", "do_not_call", ["tenant_id", "id"])


def downgrade() -> None:
    op.drop_table("do_not_call")
    op.drop_column("calls", "opted_out_at")
