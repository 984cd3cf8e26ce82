"""Agent definitions: immutable versions under a name."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.jobs import insert_job
from serve_app.store.models import Agent
from serve_app.store.rows import AgentRow, to_row
from serve_app.store.scope import TenantScope, changed, insert_or_ignore

PREPARE_LINES = "prepare_lines"

_APPLY_TRIES = 10


class Agents(TenantScope):
    async def apply(self, name: str, document: dict[str, Any]) -> AgentRow:
        """Store `document` as the newest version, and add the job that prepares its fixed lines.

        A document equal to the newest one keeps that version.
        """
        digest = _digest(document)
        for _ in range(_APPLY_TRIES):
            async with self.db.transaction() as session:
                newest = await self._newest(session, name)
                if newest is not None and newest.content_sha256 == digest:
                    return to_row(AgentRow, newest)
                version = 1 if newest is None else newest.version + 1
                created_at = self.clock.now()
                values = {
                    "tenant_id": self.tenant_id,
                    "name": name,
                    "version": version,
                    "document": document,
                    "content_sha256": digest,
                    "created_at": created_at,
                }
                # On PostgreSQL another writer may have taken the number meanwhile: look again.
                if await changed(session, insert_or_ignore(session, Agent, values)):
                    await insert_job(
                        session,
                        self.tenant_id,
                        PREPARE_LINES,
                        {"agent": name, "version": version},
                        key=f"{PREPARE_LINES}:{name}:{version}",
                        now=created_at,
                    )
                    return AgentRow(name, version, document, created_at)
        raise RuntimeError(f"agent {name}: {_APPLY_TRIES} concurrent writers took every version number")

    async def get(self, name: str, version: int | None = None) -> AgentRow | None:
        """The given version, else the newest; None if there is none."""
        async with self.db.session() as session:
            if version is None:
                found = await self._newest(session, name)
            else:
                found = await session.get(Agent, (self.tenant_id, name, version))
            return None if found is None else to_row(AgentRow, found)

    async def list(self) -> list[AgentRow]:
        """The newest version of every agent, by name."""
        newest = (
            select(Agent.name, func.max(Agent.version).label("version"))
            .where(Agent.tenant_id == self.tenant_id)
            .group_by(Agent.name)
            .subquery()
        )
        query = (
            select(Agent)
            .join(newest, (Agent.name == newest.c.name) & (Agent.version == newest.c.version))
            .where(Agent.tenant_id == self.tenant_id)
            .order_by(Agent.name)
        )
        async with self.db.session() as session:
            return [to_row(AgentRow, agent) for agent in await session.scalars(query)]

    async def _newest(self, session: AsyncSession, name: str) -> Agent | None:
        query = select(Agent).where(Agent.tenant_id == self.tenant_id, Agent.name == name)
        return await session.scalar(query.order_by(Agent.version.desc()).limit(1))


def _digest(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
