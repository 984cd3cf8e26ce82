"""The fixed lines of one call: what is prepared is held from the start, what nobody made is made in a quiet moment."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from serve_app.clock import Clock
from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.lines import LineCache, LineKey, PreparedLine, line_keys, speakable_line, synthesize
from serve_app.conversation.voice import Voice
from serve_app.errors import ProviderError
from serve_app.providers.base import SynthesisRequest, Synthesizer

TRIES = 3
LOAD_WAIT_S = 0.3
"""How long a line that is on its way from the object store is waited for; synthesizing it takes about as long."""

log = structlog.get_logger()


class CallLines:
    """Lines in the voice's present language, as the first synthesizer speaks them."""

    def __init__(
        self,
        agent: AgentDefinition,
        tenant_id: str,
        voice: Voice,
        synthesizer: Synthesizer,
        lines: LineCache,
        clock: Clock,
    ) -> None:
        self._agent = agent
        self._tenant_id = tenant_id
        self._voice = voice
        self._synthesizer = synthesizer
        self._lines = lines
        self._clock = clock
        self._log = log.bind(call_id=voice.request.call_id)
        self._keys: list[LineKey] = []
        self._held: dict[LineKey, PreparedLine] = {}
        """Memory may drop a line, and the synthesizer may be down when it is needed."""
        self.take()

    def take(self) -> None:
        """Hold the lines of the present language that are in memory, and have the others fetched."""
        self._keys = list(line_keys(self._agent, self._synthesizer, self._voice.request))
        self._held |= {key: line for key in self._keys if (line := self._lines.get(key)) is not None}
        self._lines.begin_loading(self._tenant_id, (key for key in self._keys if key not in self._held))

    def find(self, text: str) -> PreparedLine | None:
        """The line, if it is prepared."""
        key = self._key(text)
        return self._held.get(key) or self._lines.get(key)

    def is_coming(self, text: str) -> bool:
        """It is being fetched: `wait_for` may bring it."""
        return self._lines.is_loading(self._key(text))

    async def wait_for(self, text: str) -> PreparedLine | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LOAD_WAIT_S):
                return await self._lines.loaded(self._key(text))
        return None

    def _key(self, text: str) -> LineKey:
        sound = self._synthesizer.identify(self._voice.request)
        return LineKey(sound, speakable_line(text, self._voice.language).spoken)

    async def make_missing(self) -> None:
        """Synthesize and store what neither memory nor store has, one line after the other. Never raises."""
        request, keys = self._voice.request, self._keys
        for attempt in range(TRIES):
            for key in keys:
                if not await self._holds(key):
                    await self._make(request, key)
            if all(key in self._held for key in keys):
                return
            await self._clock.sleep(2.0**attempt)

    async def _holds(self, key: LineKey) -> bool:
        if key not in self._held and (line := await self._lines.loaded(key)) is not None:
            self._held[key] = line
        return key in self._held

    async def _make(self, request: SynthesisRequest, key: LineKey) -> None:
        if not self._lines.claim(key):
            return  # another call is at it
        try:
            connection = await self._voice.connect(self._synthesizer, request)
            line = self._held[key] = await synthesize(connection, key.spoken, provider=self._synthesizer.name)
            await self._lines.put(self._tenant_id, key, line)
        except ProviderError as error:
            self._log.info("a line is not prepared yet", error=str(error))
        finally:
            self._lines.unclaim(key)
