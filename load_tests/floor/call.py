"""One call: the phone's socket, a transcriber and a voice of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine

import picows

from load_tests.floor.playback import Playback
from load_tests.floor.providers import Providers, Transcriber, Voice

_BINARY, _TEXT, _CLOSE = picows.WSMsgType.BINARY, picows.WSMsgType.TEXT, picows.WSMsgType.CLOSE
_CLEAR = '{"action":"clear"}'


class Call(picows.WSListener):
    """Lives as long as the phone's socket. A provider that fails ends it: there is no second try."""

    def __init__(self, providers: Providers) -> None:
        self._providers = providers
        self._phone: picows.WSTransport | None = None
        self._transcriber = Transcriber(started=self._interrupt, ended=self._answer, lost=self._fail)
        self._playback = Playback(self._play)
        self._voice = Voice(providers.options, audio=self._playback.add, done=self._playback.end, lost=self._fail)
        self._messages = [{"role": "system", "content": providers.options.system_prompt}]
        self._thinking: asyncio.Task[None] | None = None
        self._over = False

    # --- the phone's socket -------------------------------------------------------------------------------------------

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._phone = transport
        self._think(self._greet())

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type is _BINARY:
            # Before the transcriber is connected, some milliseconds, there is nobody to tell.
            self._transcriber.hear(frame.get_payload_as_bytes())
        elif frame.msg_type is _CLOSE:
            transport.send_close(picows.WSCloseCode.OK)
            transport.disconnect()

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self._over = True
        if self._thinking is not None:
            self._thinking.cancel()
        self._playback.drop()
        self._transcriber.close()
        self._voice.close()

    # --- the conversation ---------------------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        """The callee speaks: the agent falls silent, and what it was about to say is never said."""
        if self._thinking is not None:
            self._thinking.cancel()
        self._voice.cancel()
        if self._playback.drop() and self._phone is not None:
            self._phone.send(_TEXT, _CLEAR)

    def _answer(self, heard: str) -> None:
        self._messages.append({"role": "user", "content": heard})
        self._think(self._reply())

    async def _greet(self) -> None:
        # The transcriber last: what it hears may cancel this task, and the voice must be there by then.
        await self._providers.speak(self._voice)
        await self._providers.transcribe(self._transcriber)
        self._say(self._providers.options.greeting)

    async def _reply(self) -> None:
        self._say(await self._providers.ask(self._messages))

    def _say(self, text: str) -> None:
        self._messages.append({"role": "assistant", "content": text})
        self._voice.speak(text)

    def _play(self, frame: bytes) -> None:
        if self._phone is not None:
            self._phone.send(_BINARY, frame)

    def _think(self, work: Coroutine[None, None, None]) -> None:
        if self._thinking is not None:
            self._thinking.cancel()
        self._thinking = asyncio.get_running_loop().create_task(work)
        self._thinking.add_done_callback(self._thought)

    def _thought(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, problem: str) -> None:
        """Once: hang up, and say why on standard error."""
        if not self._over:
            self._over = True
            print(problem, file=sys.stderr, flush=True)
            if self._phone is not None:
                self._phone.send_close(picows.WSCloseCode.INTERNAL_ERROR)
                self._phone.disconnect()
