"""The job `prepare_lines`: an agent version's fixed lines as speech in the object store, before a call needs them."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.lines import LineCache, make_lines
from serve_app.errors import ProviderError
from serve_app.jobs.runner import JobFailed
from serve_app.providers.base import AudioFormat, Synthesizer
from serve_app.store.db import Database
from serve_app.store.objects import ObjectStore
from serve_app.store.repositories import PREPARE_LINES, Agents, JobRow, Jobs

MEMORY_BYTES = 16 << 20

log = structlog.get_logger(__name__)


class PrepareLines:
    """Handler of the job. Idempotent: what is stored is not made again."""

    def __init__(
        self, db: Database, objects: ObjectStore, synthesizer: Callable[[], Synthesizer], audio: AudioFormat
    ) -> None:
        """`synthesizer` is called for the first job: its SDK costs a second of CPU, which no start should wait for."""
        self._db = db
        self._lines = LineCache(objects, limit_bytes=MEMORY_BYTES)
        self._make_synthesizer = synthesizer
        self._synthesizer: Synthesizer | None = None
        self._audio = audio

    async def __call__(self, job: JobRow) -> None:
        """Raises JobFailed where no retry helps, ProviderError where one may."""
        agent = await self._agent(job.tenant_id, str(job.payload["agent"]), int(job.payload["version"]))
        if agent is None:
            raise JobFailed("there is no such agent version")
        try:
            made = await self._make(job.tenant_id, agent, opening_only=False)
        except ProviderError as error:
            if error.retryable:
                raise
            raise JobFailed(str(error)) from error
        log.info("lines_prepared", agent=agent.name, version=job.payload["version"], made=made)

    async def opening(self, tenant_id: str, name: str, version: int) -> bool:
        """Have the opening ready for a call that is about to be placed; a job makes the others, if this had to be made.

        True: it is. Never raises for what the provider does.
        """
        agent = await self._agent(tenant_id, name, version)
        if agent is None:
            return False
        try:
            made = await self._make(tenant_id, agent, opening_only=True)
        except ProviderError as error:
            log.warning("opening_not_prepared", agent=name, version=version, error=str(error))
            return False
        if made:
            # The agent is older than the voice it speaks with now: none of its lines will be there.
            payload = {"agent": name, "version": version}
            await Jobs(self._db).add(tenant_id, PREPARE_LINES, payload)
        return True

    async def _agent(self, tenant_id: str, name: str, version: int) -> AgentDefinition | None:
        row = await Agents(self._db, tenant_id).get(name, version)
        return None if row is None else AgentDefinition.model_validate(row.document)

    async def _make(self, tenant_id: str, agent: AgentDefinition, *, opening_only: bool) -> int:
        if self._synthesizer is None:
            self._synthesizer = self._make_synthesizer()
        return await make_lines(
            self._lines, self._synthesizer, tenant_id, agent, self._audio, opening_only=opening_only
        )

    async def aclose(self) -> None:
        if self._synthesizer is not None:
            await self._synthesizer.aclose()
