"""What the first start of a platform creates: one API key, shown once, and the agents that come with Parley."""

from __future__ import annotations

import sys

import structlog
import yaml

from serve_app.conversation.agent import AgentDefinition
from serve_app.paths import configs_dir
from serve_app.settings import Settings
from serve_app.store.db import Database
from serve_app.store.repositories import Agents, ApiKeys

log = structlog.get_logger()


async def first_start(settings: Settings, db: Database) -> None:
    """Idempotent. Raises UnavailableError, and ValidationError for an agent file that is wrong."""
    keys = ApiKeys(db, settings.tenant)
    if not await keys.any():
        plaintext, row = await keys.create("first start")
        # Written past the log: log lines are collected and kept, this must be seen by a person and nobody else.
        print(f"\n  API key of tenant '{row.tenant_id}', shown this once: {plaintext}\n", file=sys.stdout, flush=True)  # noqa: T201
    agents = Agents(db, settings.tenant)
    if await agents.list():
        return
    for file in sorted((configs_dir() / "agents").glob("*.yaml")):
        document = AgentDefinition.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
        row_agent = await agents.apply(document.name, document.model_dump(mode="json"))
        log.info("agent created", agent=row_agent.name, version=row_agent.version)
