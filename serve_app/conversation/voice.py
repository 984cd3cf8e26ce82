"""A call's connections to its synthesizers, one per synthesizer and language; opened on first use, closed with it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace

from serve_app.conversation.phrases import Language
from serve_app.errors import ProviderError
from serve_app.providers.base import SynthesisConnection, SynthesisRequest, Synthesizer, Utterance

OPEN_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0

_Key = tuple[int, SynthesisRequest]


class Voice:
    """How the agent sounds now, and the way there."""

    def __init__(self, request: SynthesisRequest, language: Language) -> None:
        self.request = request
        self.language: Language = language
        self._connections: dict[_Key, SynthesisConnection] = {}
        self._opening: defaultdict[_Key, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._left: list[SynthesisConnection] = []
        """Given up, to be closed with the call."""

    def switch(self, language: Language, voice: str | None) -> None:
        """What is spoken from now on; speech that has begun goes on as it began."""
        self.language = language
        self.request = replace(self.request, language=language, voice=voice)

    async def connect(self, synthesizer: Synthesizer, request: SynthesisRequest) -> SynthesisConnection:
        """The connection, opened if it is not there. Raises ProviderError, in a bounded time."""
        key = (id(synthesizer), request)
        async with self._opening[key]:
            connection = self._connections.get(key)
            if connection is None:
                try:
                    async with asyncio.timeout(OPEN_TIMEOUT_S):
                        connection = await synthesizer.open(request)
                except TimeoutError as error:
                    raise ProviderError("tts", synthesizer.name, "no connection in time", retryable=True) from error
                self._connections[key] = connection
            return connection

    async def discard(self, synthesizer: Synthesizer) -> None:
        """Close what leads to this synthesizer: a socket that hangs would hang the next turn too. Never raises."""
        for key in [key for key in self._connections if key[0] == id(synthesizer)]:
            await _close(self._connections.pop(key))

    def leave(self, synthesizer: Synthesizer) -> None:
        """What leads to this synthesizer is not used again; for where nobody may wait until it is closed."""
        for key in [key for key in self._connections if key[0] == id(synthesizer)]:
            self._left.append(self._connections.pop(key))

    async def close(self) -> None:
        """Never raises."""
        for connection in (*self._connections.values(), *self._left):
            await _close(connection)
        self._connections.clear()
        self._left.clear()


async def _close(connection: SynthesisConnection) -> None:
    with suppress(ProviderError, TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await connection.close()


async def cancel_utterance(utterance: Utterance) -> None:
    """Nothing of it is delivered any more, and the synthesizer knows. Never raises, in a bounded time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await utterance.cancel()
