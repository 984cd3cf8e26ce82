"""Tenants, campaigns, leads, consents, numbers, imports, kill switches, registries; and whose lead an attempt is."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLES = (
    "usage",
    "kill_switches",
    "import_errors",
    "import_chunks",
    "imports",
    "numbers",
    "global_dnc",
    "consents",
    "lead_decisions",
    "leads",
    "campaigns",
    "tenants",
)
ATTEMPT_INDEXES = (
    "one_attempt",
    "ix_attempts_unsettled",
    "ix_attempts_given_up",
    "ix_attempts_to_number_tenant_id_created_at",
    "ix_attempts_tenant_id_campaign_id_created_at",
    "ix_attempts_tenant_id_from_number_created_at",
)
ATTEMPT_COLUMNS = (
    "lead_id",
    "campaign_id",
    "number_in_lead",
    "rules_reason",
    "cost_micros",
    "cost_currency",
    "reported",
    "callback_at",
    "result",
    "settled_at",
)


def upgrade() -> None:
    _tenants()
    _campaigns()
    _leads()
    _lead_decisions()
    _consents()
    _global_dnc()
    _numbers()
    _imports()
    _kill_switches()
    _usage()
    _attempts()
    _call_events()
    op.create_index("ix_calls_carrier_call_id", "calls", ["carrier_call_id"])


def downgrade() -> None:
    op.drop_index("ix_calls_carrier_call_id", "calls")
    op.drop_index("ix_call_events_unfolded", "call_events")
    for column in ("attempt_id", "unfolded_since"):
        op.drop_column("call_events", column)
    for index in ATTEMPT_INDEXES:
        op.drop_index(index, "attempts")
    for column in ATTEMPT_COLUMNS:
        op.drop_column("attempts", column)
    for table in TABLES:
        op.drop_table(table)


def _json(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON().with_variant(JSONB(), "postgresql"), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, length: int | None = None, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Text() if length is None else sa.String(length), nullable=nullable)


def _int(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.Integer(), nullable=nullable)


def _partial_index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


def _tenants() -> None:
    op.create_table(
        "tenants",
        _text("tenant_id", 64),
        _text("business_name", 200),
        _text("plan", 32),
        _text("status", 16),
        _text("country", 2, nullable=True),
        _json("calling_rules", nullable=True),
        _int("weight"),
        _int("max_concurrent", nullable=True),
        _int("daily_calls", nullable=True),
        _int("spend_cap_minor", nullable=True),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_tenants"),
    )


def _campaigns() -> None:
    op.create_table(
        "campaigns",
        _text("id", 36),
        _text("tenant_id", 64),
        _text("name", 100),
        _text("description"),
        _text("goal"),
        _text("status", 16),
        _text("agent_name", 63),
        _int("agent_version", nullable=True),
        _json("calling_rules"),
        _json("retry_policy"),
        _text("number_pool", 64, nullable=True),
        _int("weight"),
        _int("max_concurrent", nullable=True),
        _int("daily_calls", nullable=True),
        _int("spend_cap_minor", nullable=True),
        _time("scheduled_at", nullable=True),
        _time("started_at", nullable=True),
        _time("completed_at", nullable=True),
        _time("created_at"),
        _time("updated_at"),
        _int("epoch"),
        sa.PrimaryKeyConstraint("id", name="pk_campaigns"),
        sa.UniqueConstraint("tenant_id", "id", name="uq_campaigns_tenant_id_id"),
        sa.UniqueConstraint("tenant_id", "name", name="uq_campaigns_tenant_id_name"),
    )
    op.create_index("ix_campaigns_status_scheduled_at", "campaigns", ["status", "scheduled_at"])


def _leads() -> None:
    op.create_table(
        "leads",
        _text("id", 36),
        _text("tenant_id", 64),
        _text("campaign_id", 36),
        _text("number", 16),
        _text("first_name", 100, nullable=True),
        _text("last_name", 100, nullable=True),
        _text("email", 254, nullable=True),
        _json("zones", nullable=True),
        _text("region", 6, nullable=True),
        _int("priority"),
        sa.Column("high_value", sa.Boolean(), nullable=False),
        _json("tags"),
        _json("custom_fields"),
        _text("state", 16),
        _time("next_at"),
        _time("queue_at"),
        _int("attempts"),
        _int("epoch"),
        _text("lease_owner", 128, nullable=True),
        _time("lease_until", nullable=True),
        _text("last_result", 32, nullable=True),
        _text("last_reason", 64, nullable=True),
        _time("last_called_at", nullable=True),
        _text("caller_id", 16, nullable=True),
        _text("import_id", 36, nullable=True),
        _time("consent_at", nullable=True),
        _time("scrubbed_at", nullable=True),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_leads"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "campaign_id"],
            ["campaigns.tenant_id", "campaigns.id"],
            name="fk_leads_tenant_id_campaign_id",
        ),
        sa.CheckConstraint("priority BETWEEN 1 AND 10", name="ck_leads_priority"),
    )
    _partial_index("one_lead", "leads", ["tenant_id", "number", "campaign_id"], "state <> 'deleted'", unique=True)
    _partial_index("ix_leads_ready", "leads", ["tenant_id", "campaign_id", "queue_at", "id"], "state = 'ready'")
    due = ["tenant_id", "campaign_id", "next_at"]
    _partial_index("ix_leads_deferred", "leads", [*due, "id"], "state = 'deferred'")
    expected = "state = 'deferred' AND last_result IN ('callback', 'not_placed')"
    _partial_index("ix_leads_expected", "leads", due, expected)
    _partial_index("ix_leads_leased", "leads", ["lease_until"], "state = 'leased'")
    op.create_index("ix_leads_tenant_id_campaign_id_id", "leads", ["tenant_id", "campaign_id", "id"])
    op.create_index("ix_leads_tenant_id_campaign_id_state", "leads", ["tenant_id", "campaign_id", "state", "id"])


def _lead_decisions() -> None:
    op.create_table(
        "lead_decisions",
        _text("tenant_id", 64),
        _text("lead_id", 36),
        _int("after_attempt"),
        _text("reason", 64),
        _text("id", 36),
        _text("campaign_id", 36),
        _text("decision", 16),
        _time("until", nullable=True),
        _time("at"),
        _time("last_at"),
        _int("times"),
        sa.PrimaryKeyConstraint("tenant_id", "lead_id", "after_attempt", "reason", name="pk_lead_decisions"),
    )


def _consents() -> None:
    op.create_table(
        "consents",
        _text("id", 36),
        _text("tenant_id", 64),
        _text("number", 16),
        _text("kind", 16),
        _text("scope"),
        _text("source"),
        _time("given_at"),
        _time("expires_at", nullable=True),
        _time("revoked_at", nullable=True),
        _json("document", nullable=True),
        _time("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_consents"),
    )
    op.create_index("ix_consents_tenant_id_number", "consents", ["tenant_id", "number"])


def _global_dnc() -> None:
    op.create_table(
        "global_dnc",
        _text("tenant_id", 64),
        _text("number", 16),
        _text("source", 64),
        _time("listed_at"),
        sa.PrimaryKeyConstraint("tenant_id", "number", "source", name="pk_global_dnc"),
    )


def _numbers() -> None:
    op.create_table(
        "numbers",
        _text("id", 36),
        _text("tenant_id", 64),
        _text("e164", 16),
        _text("pool", 64),
        _text("region", 6, nullable=True),
        _text("attestation", 1, nullable=True),
        _text("agent_name", 63, nullable=True),
        _int("daily_cap"),
        _time("warmup_from", nullable=True),
        _text("state", 16),
        _time("cool_until", nullable=True),
        _text("state_reason", nullable=True),
        _time("created_at"),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_numbers"),
        sa.UniqueConstraint("tenant_id", "e164", name="uq_numbers_tenant_id_e164"),
    )
    op.create_index("ix_numbers_tenant_id_pool_state", "numbers", ["tenant_id", "pool", "state"])


def _imports() -> None:
    op.create_table(
        "imports",
        _text("id", 36),
        _text("tenant_id", 64),
        _text("campaign_id", 36, nullable=True),
        _text("kind", 16),
        _text("filename"),
        _text("object_key"),
        _int("size_bytes"),
        _text("sha256", 64),
        _text("fingerprint", 64),
        _text("status", 16),
        _json("mapping"),
        _json("options"),
        _json("counts"),
        _int("rows_total", nullable=True),
        _text("error", nullable=True),
        _time("created_at"),
        _time("started_at", nullable=True),
        _time("finished_at", nullable=True),
        _time("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_imports"),
        sa.UniqueConstraint("tenant_id", "id", name="uq_imports_tenant_id_id"),
        sa.UniqueConstraint("tenant_id", "fingerprint", name="uq_imports_tenant_id_fingerprint"),
    )
    op.create_index("ix_imports_tenant_id_status", "imports", ["tenant_id", "status"])
    op.create_table(
        "import_chunks",
        _text("tenant_id", 64),
        _text("import_id", 36),
        _int("chunk_no"),
        _json("counts"),
        _time("committed_at"),
        sa.PrimaryKeyConstraint("tenant_id", "import_id", "chunk_no", name="pk_import_chunks"),
        _import_reference("import_chunks"),
    )
    op.create_table(
        "import_errors",
        _text("tenant_id", 64),
        _text("import_id", 36),
        _int("row_no"),
        _text("column_name", 200),
        _text("code", 64),
        _text("value"),
        sa.PrimaryKeyConstraint("tenant_id", "import_id", "row_no", name="pk_import_errors"),
        _import_reference("import_errors"),
    )


def _import_reference(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant_id", "import_id"], ["imports.tenant_id", "imports.id"], name=f"fk_{table}_tenant_id_import_id"
    )


def _kill_switches() -> None:
    op.create_table(
        "kill_switches",
        _text("id", 36),
        _text("tenant_id", 64),
        _text("scope", 16),
        _text("key", 64),
        _text("reason"),
        _time("on_at"),
        _text("on_by", 100),
        _time("off_at", nullable=True),
        _text("off_by", 100, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_kill_switches"),
    )
    _partial_index("one_switch", "kill_switches", ["tenant_id", "scope", "key"], "off_at IS NULL", unique=True)


def _usage() -> None:
    op.create_table(
        "usage",
        _text("tenant_id", 64),
        _text("day", 10),
        _text("campaign_id", 36),
        _int("calls"),
        _int("answered"),
        sa.Column("talk_s", sa.Float(), nullable=False),
        sa.Column("cost_micros", sa.BigInteger(), nullable=False),
        sa.Column("priced_talk_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "day", "campaign_id", name="pk_usage"),
    )


def _attempts() -> None:
    for column in (
        _text("lead_id", 36, nullable=True),
        _text("campaign_id", 36, nullable=True),
        _int("number_in_lead", nullable=True),
        _text("rules_reason", 64, nullable=True),
        sa.Column("cost_micros", sa.BigInteger(), nullable=True),
        _text("cost_currency", 3, nullable=True),
        _text("reported", 32, nullable=True),
        _time("callback_at", nullable=True),
        _text("result", 32, nullable=True),
        _time("settled_at", nullable=True),
    ):
        op.add_column("attempts", column)
    of_a_lead = "lead_id IS NOT NULL"
    _partial_index("one_attempt", "attempts", ["lead_id", "number_in_lead"], of_a_lead, unique=True)
    unsettled = f"{of_a_lead} AND status = 'ended' AND settled_at IS NULL"
    _partial_index("ix_attempts_unsettled", "attempts", ["ended_at"], unsettled)
    given_up = "status = 'ended' AND carrier_call_id IS NULL AND placing_at IS NOT NULL"
    _partial_index("ix_attempts_given_up", "attempts", ["ended_at"], given_up)
    for first, second in (("to_number", "tenant_id"), ("tenant_id", "campaign_id"), ("tenant_id", "from_number")):
        op.create_index(f"ix_attempts_{first}_{second}_created_at", "attempts", [first, second, "created_at"])


def _call_events() -> None:
    op.add_column("call_events", _text("attempt_id", 36, nullable=True))
    op.add_column("call_events", _time("unfolded_since", nullable=True))
    _partial_index("ix_call_events_unfolded", "call_events", ["unfolded_since"], "unfolded_since IS NOT NULL")
