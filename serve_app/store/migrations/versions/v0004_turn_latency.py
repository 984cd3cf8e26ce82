"""Latencies by the names of the stages, with what of their budgets they are above, and why."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLE = "latency_measurements"
RENAMED = {
    "end_of_turn_ms": "stt_ms",
    "llm_first_token_ms": "llm_ms",
    "tts_first_audio_ms": "tts_ms",
    "first_frame_ms": "frame_ms",
}


def upgrade() -> None:
    for old, new in RENAMED.items():
        op.alter_column(TABLE, old, new_column_name=new)
    document = sa.JSON().with_variant(JSONB(), "postgresql")
    for column in (
        sa.Column("sentence_ms", sa.Float()),
        sa.Column("confirm_ms", sa.Float()),
        sa.Column("within_target", sa.Boolean()),
        sa.Column("over", document),
        sa.Column("causes", document),
        sa.Column("speculative", sa.Boolean()),
    ):
        op.add_column(TABLE, column)
    # Until now no stage had the time between the first token and the first sentence: it is what the total has more.
    names = ("stt_ms", "llm_ms", "tts_ms", "frame_ms", "total_ms", "sentence_ms")
    rows = sa.table(TABLE, *(sa.column(name, sa.Float()) for name in names))
    rest = rows.c.total_ms - rows.c.stt_ms - rows.c.llm_ms - rows.c.tts_ms - rows.c.frame_ms
    tenths = sa.cast(sa.func.round(sa.cast(rest, sa.Numeric()), 1), sa.Float())
    op.execute(rows.update().where(rest.is_not(None)).values(sentence_ms=sa.case((rest > 0, tenths), else_=0.0)))


def downgrade() -> None:
    for name in ("sentence_ms", "confirm_ms", "within_target", "over", "causes", "speculative"):
        op.drop_column(TABLE, name)
    for old, new in RENAMED.items():
        op.alter_column(TABLE, new, new_column_name=old)
