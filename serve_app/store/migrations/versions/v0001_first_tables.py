"""The first tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "jobs",
    "api_keys",
    "latency_measurements",
    "recordings",
    "transcripts",
    "turns",
    "call_events",
    "attempts",
    "calls",
    "agents",
)


def upgrade() -> None:
    _agents()
    _calls()
    _attempts()
    _call_events()
    _turns()
    _transcripts()
    _recordings()
    _latency_measurements()
    _api_keys()
    _jobs()


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON().with_variant(JSONB(), "postgresql")


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _tenant() -> sa.Column[str]:
    return sa.Column("tenant_id", sa.String(64), nullable=False)


def _call_columns(table: str) -> tuple[sa.Column[str], sa.Column[str], sa.ForeignKeyConstraint]:
    reference = sa.ForeignKeyConstraint(
        ["tenant_id", "call_id"], ["calls.tenant_id", "calls.id"], name=f"fk_{table}_tenant_id_call_id"
    )
    return _tenant(), sa.Column("call_id", sa.String(36), nullable=False), reference


def _agents() -> None:
    op.create_table(
        "agents",
        _tenant(),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("document", _json(), nullable=False),
        sa.Column("content_sha256", sa.String(64), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("tenant_id", "name", "version", name="pk_agents"),
    )


def _calls() -> None:
    op.create_table(
        "calls",
        sa.Column("id", sa.String(36), nullable=False),
        _tenant(),
        sa.Column("direction", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(32)),
        sa.Column("detail", sa.Text()),
        sa.Column("carrier_call_id", sa.String(128)),
        sa.Column("region_url", sa.Text()),
        sa.Column("from_number", sa.String(32), nullable=False),
        sa.Column("to_number", sa.String(32), nullable=False),
        sa.Column("agent_name", sa.String(63), nullable=False),
        sa.Column("agent_version", sa.Integer(), nullable=False),
        sa.Column("metadata", _json(), nullable=False),
        _time("created_at"),
        _time("updated_at"),
        _time("give_up_at", nullable=True),
        _time("answered_at", nullable=True),
        _time("started_at", nullable=True),
        _time("ended_at", nullable=True),
        sa.Column("duration_s", sa.Float()),
        sa.Column("sample_rate_hz", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="pk_calls"),
        sa.UniqueConstraint("tenant_id", "id", name="uq_calls_tenant_id_id"),
        sa.UniqueConstraint("tenant_id", "carrier_call_id", name="uq_calls_tenant_id_carrier_call_id"),
    )
    op.create_index("ix_calls_tenant_id_status_updated_at", "calls", ["tenant_id", "status", "updated_at"])


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", sa.String(36), nullable=False),
        *_call_columns("attempts"),
        sa.Column("to_number", sa.String(32), nullable=False),
        sa.Column("from_number", sa.String(32), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(128)),
        _time("lease_until", nullable=True),
        _time("next_at"),
        _time("give_up_at"),
        sa.Column("carrier_call_id", sa.String(128)),
        sa.Column("conversation_id", sa.String(128)),
        sa.Column("region_url", sa.Text()),
        _time("created_at"),
        _time("placing_at", nullable=True),
        _time("placed_at", nullable=True),
        _time("ended_at", nullable=True),
        sa.Column("disposition", sa.String(32)),
        sa.Column("detail", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
    )
    live = sa.text("status IN ('intended', 'placing', 'placed', 'unknown')")
    op.create_index(
        "one_live", "attempts", ["tenant_id", "to_number"], unique=True, sqlite_where=live, postgresql_where=live
    )
    op.create_index("ix_attempts_tenant_id_call_id", "attempts", ["tenant_id", "call_id"])
    op.create_index("ix_attempts_tenant_id_status_next_at", "attempts", ["tenant_id", "status", "next_at"])


def _call_events() -> None:
    op.create_table(
        "call_events",
        _tenant(),
        sa.Column("dedupe_key", sa.String(128), nullable=False),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("carrier_call_id", sa.String(128)),
        sa.Column("body", _json(), nullable=False),
        _time("received_at"),
        sa.PrimaryKeyConstraint("tenant_id", "dedupe_key", name="pk_call_events"),
    )
    op.create_index("ix_call_events_tenant_id_carrier_call_id", "call_events", ["tenant_id", "carrier_call_id"])


def _turns() -> None:
    op.create_table(
        "turns",
        *_call_columns("turns"),
        sa.Column("turn_index", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("heard_text", sa.Text(), nullable=False),
        sa.Column("started_ms", sa.Float(), nullable=False),
        sa.Column("ended_ms", sa.Float(), nullable=False),
        sa.Column("approximate", sa.Boolean(), nullable=False),
        sa.Column("interrupted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "call_id", "turn_index", name="pk_turns"),
    )


def _transcripts() -> None:
    op.create_table(
        "transcripts",
        *_call_columns("transcripts"),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("turn_count", sa.Integer(), nullable=False),
        sa.Column("approximate", sa.Boolean(), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("tenant_id", "call_id", name="pk_transcripts"),
    )


def _recordings() -> None:
    op.create_table(
        "recordings",
        *_call_columns("recordings"),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("format", sa.String(8), nullable=False),
        sa.Column("channels", sa.Integer(), nullable=False),
        sa.Column("sample_rate_hz", sa.Integer(), nullable=False),
        sa.Column("duration_s", sa.Float(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("peaks", _json(), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("tenant_id", "call_id", name="pk_recordings"),
    )


def _latency_measurements() -> None:
    names = ("end_of_turn_ms", "llm_first_token_ms", "tts_first_audio_ms", "first_frame_ms", "total_ms")
    op.create_table(
        "latency_measurements",
        *_call_columns("latency_measurements"),
        sa.Column("turn_index", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Float()) for name in names),
        _time("created_at"),
        sa.PrimaryKeyConstraint("tenant_id", "call_id", "turn_index", name="pk_latency_measurements"),
    )


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(36), nullable=False),
        _tenant(),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("key_sha256", sa.String(64), nullable=False),
        _time("created_at"),
        _time("expires_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("key_sha256", name="uq_api_keys_key_sha256"),
    )
    op.create_index("ix_api_keys_tenant_id", "api_keys", ["tenant_id"])


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(36), nullable=False),
        _tenant(),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("key", sa.String(200)),
        sa.Column("payload", _json(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        _time("due_at"),
        sa.Column("lease_owner", sa.String(128)),
        sa.Column("last_error", sa.Text()),
        _time("created_at"),
        _time("finished_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("tenant_id", "key", name="uq_jobs_tenant_id_key"),
    )
    waiting = sa.text("status IN ('ready', 'leased')")
    op.create_index("ix_jobs_due_at", "jobs", ["due_at"], sqlite_where=waiting, postgresql_where=waiting)
