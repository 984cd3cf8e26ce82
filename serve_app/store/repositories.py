"""The repositories, under one name. Each takes (db, tenant_id), except Jobs, which serves the platform's workers."""

from __future__ import annotations

from serve_app.store.agents import PREPARE_LINES, Agents
from serve_app.store.attempts import Attempts
from serve_app.store.call_ends import MIX_RECORDING
from serve_app.store.call_folding import CallFolding
from serve_app.store.calls import Calls, LiveCallExists, NotToBeCalled
from serve_app.store.campaigns import Campaigns
from serve_app.store.consents import Consents
from serve_app.store.do_not_call import DoNotCall
from serve_app.store.imports import IMPORT_FILE, Imports
from serve_app.store.jobs import Jobs, insert_job
from serve_app.store.keys import ApiKeys
from serve_app.store.kill_switches import KillSwitches
from serve_app.store.lead_claims import LeadClaims
from serve_app.store.lead_log import LeadLog
from serve_app.store.leads import Leads
from serve_app.store.numbers import Numbers
from serve_app.store.records import Events, Recordings, Transcripts, Turns
from serve_app.store.registries import Registries
from serve_app.store.rows import (
    AgentAttemptRow,
    AgentRow,
    ApiKeyRow,
    AttemptRow,
    CallRow,
    Charge,
    ClaimRow,
    DoNotCallRow,
    EventContext,
    JobRow,
    RawEvent,
    RecordingRow,
    TranscriptRow,
    TurnRow,
)
from serve_app.store.tenants import Tenants

__all__ = [
    "IMPORT_FILE",
    "MIX_RECORDING",
    "PREPARE_LINES",
    "AgentAttemptRow",
    "AgentRow",
    "Agents",
    "ApiKeyRow",
    "ApiKeys",
    "AttemptRow",
    "Attempts",
    "CallFolding",
    "CallRow",
    "Calls",
    "Campaigns",
    "Charge",
    "ClaimRow",
    "Consents",
    "DoNotCall",
    "DoNotCallRow",
    "EventContext",
    "Events",
    "Imports",
    "JobRow",
    "Jobs",
    "KillSwitches",
    "LeadClaims",
    "LeadLog",
    "Leads",
    "LiveCallExists",
    "NotToBeCalled",
    "Numbers",
    "RawEvent",
    "RecordingRow",
    "Recordings",
    "Registries",
    "Tenants",
    "TranscriptRow",
    "Transcripts",
    "TurnRow",
    "Turns",
    "insert_job",
]
