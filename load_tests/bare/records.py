"""The records of the bare server: the same SQLite schema, statements and journal as the platform's."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.lease import CallLease
from serve_app.conversation.sql_journal import SqlJournal
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.migrate import upgrade
from serve_app.store.repositories import Agents, Calls

TENANT = "default"
CALLER, CALLED = "+12025550100", "+12025550199"


class NobodyWatches:
    """Stands where the journal has Redis: live events reach nobody. That is part of what composition costs."""

    async def publish(self, call_id: str, *events: dict[str, Any]) -> None:
        return

    async def publish_all(self, events: Mapping[str, Sequence[dict[str, Any]]]) -> None:
        return


class Records:
    """Call rows and the journal of one process."""

    def __init__(self, db: Database, agent: AgentDefinition, agent_version: int) -> None:
        self._db = db
        self._agent = agent
        self._version = agent_version
        self.journal = SqlJournal(db, cast(LiveState, NobodyWatches()))

    @classmethod
    async def open(cls, data_dir: Path, agent: AgentDefinition) -> Records:
        """Create or open the database of a folder and store the agent. Raises UnavailableError."""
        url = f"sqlite+aiosqlite:///{data_dir / 'parley.db'}"
        await asyncio.to_thread(upgrade, url)
        db = await Database.connect(url)
        row = await Agents(db, TENANT).apply(agent.name, agent.model_dump(mode="json"))
        return cls(db, agent, row.version)

    async def new_call(self) -> CallLease:
        """The rows that the answer webhook writes, and the lease that it would hand out."""
        carrier_call_id = str(uuid.uuid4())
        calls = Calls(self._db, TENANT)
        row = await calls.create_inbound(
            carrier_call_id=carrier_call_id,
            from_number=CALLER,
            to_number=CALLED,
            agent_name=self._agent.name,
            agent_version=self._version,
            metadata={},
        )
        await calls.answered(row.id, calls.clock.now())
        return CallLease(
            call_id=row.id,
            tenant_id=TENANT,
            direction="inbound",
            carrier_call_id=carrier_call_id,
            from_number=CALLER,
            to_number=CALLED,
            agent=self._agent,
            agent_version=self._version,
            slot_id=row.id,
        )

    async def aclose(self) -> None:
        await self._db.aclose()
