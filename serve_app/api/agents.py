"""Agent definitions: immutable versions under a name."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from serve_app.api.auth import Caller
from serve_app.api.deps import Deps
from serve_app.api.problems import field_problem, not_found
from serve_app.api.schemas import AgentPage, AgentView
from serve_app.conversation.agent import AgentDefinition
from serve_app.store.repositories import AgentRow, Agents

router = APIRouter(prefix="/api/v1/agents", tags=["agents"])
AgentName = Annotated[str, Path(max_length=63)]


@router.get("", response_model=AgentPage)
async def list_agents(caller: Caller, deps: Deps) -> AgentPage:
    """The newest version of each agent."""
    return AgentPage(items=[_view(row) for row in await Agents(deps.db, caller.tenant_id).list()])


@router.get("/{name}", response_model=AgentView)
async def read_agent(
    name: AgentName, caller: Caller, deps: Deps, version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None
) -> AgentView:
    """One agent: the newest version, or the one asked for."""
    row = await Agents(deps.db, caller.tenant_id).get(name, version)
    if row is None:
        raise not_found("agent")
    return _view(row)


@router.put("/{name}", response_model=AgentView)
async def apply_agent(name: AgentName, body: AgentDefinition, caller: Caller, deps: Deps) -> AgentView:
    """Store the definition. The same content keeps its version; any change makes the next one. Calls that are
    going on keep the version they began with."""
    if body.name != name:
        raise field_problem("name", "the document names another agent than the path", f"use {name}")
    return _view(await Agents(deps.db, caller.tenant_id).apply(name, body.model_dump(mode="json")))


def _view(row: AgentRow) -> AgentView:
    return AgentView(name=row.name, version=row.version, created_at=row.created_at, document=dict(row.document))
