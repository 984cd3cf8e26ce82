"""Hold and release on the wire: one `clear`, silence, and then speech from the word that was cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from serve_app.conversation.ledger import Spoken
from serve_app.conversation.player import Player
from serve_app.conversation.playout import Notice, Playout
from serve_app.conversation.speakable import speakable
from serve_app.providers.base import AudioFormat, Word
from serve_app.scenarios.virtual_time import LoopClock, run_virtual
from serve_app.telephony.base import WireMessage
from serve_app.telephony.vonage.wire import VonageLeg

LINEAR = AudioFormat("linear16", 8000)
FRAME_BYTES = 320
TEXT = "one two three four five six seven eight nine ten."
WORD_S = 0.3
FRAMES = 150


class Wire:
    """A call's player on Vonage's wire, with ten words of 300 ms to say."""

    def __init__(self) -> None:
        self.sent: list[WireMessage] = []
        self.played: list[bytes] = []
        self.notices: list[Notice] = []
        self.playout = Playout(LINEAR, lead_ms=300)
        self.player = Player(
            self.playout,
            VonageLeg(8000),
            self,
            clock=LoopClock(),
            on_notice=self.notices.append,
            on_played=lambda frame, _: self.played.append(frame),
        )

    def send(self, *messages: WireMessage) -> None:
        self.sent += messages

    def close(self, reason: str) -> None: ...

    def speak(self) -> None:
        words = TEXT.split()
        self.playout.begin(1)
        self.playout.push_text(1, speakable(TEXT, "en"))
        self.playout.push_words(1, tuple(Word(w, i * WORD_S, (i + 1) * WORD_S) for i, w in enumerate(words)))
        self.playout.push_audio(1, b"".join(index.to_bytes(2, "little") * 160 for index in range(FRAMES)))
        self.playout.finish(1)
        self.player.kick()

    def frames(self) -> list[int]:
        return [int.from_bytes(message[:2], "little") for message in self.sent if isinstance(message, bytes)]

    def clears(self) -> int:
        return sum(json.loads(m)["action"] == "clear" for m in self.sent if isinstance(m, str))

    def spoken(self) -> list[Spoken]:
        return [notice.spoken for notice in self.notices if notice.spoken is not None]


def on_the_wire(scene: Callable[[Wire], Awaitable[None]]) -> Wire:
    async def main() -> Wire:
        wire = Wire()
        running = asyncio.create_task(wire.player.run())
        await asyncio.sleep(0)
        wire.speak()
        await scene(wire)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        return wire

    return run_virtual(main())


def test_a_hold_sends_one_clear_and_then_nothing() -> None:
    async def scene(wire: Wire) -> None:
        await asyncio.sleep(1.01)
        wire.player.hold()
        sent = len(wire.sent)
        assert wire.sent[-1] == '{"action":"clear"}'
        wire.player.hold()
        await asyncio.sleep(5)
        assert wire.sent[sent:] == []
        assert [notice.kind for notice in wire.notices] == ["playing"], "held is neither dry nor drained"

    assert on_the_wire(scene).clears() == 1


def test_a_release_goes_on_with_the_word_that_was_cut_and_says_that_it_plays() -> None:
    async def scene(wire: Wire) -> None:
        await asyncio.sleep(1.01)  # inside "four", 0.9 s to 1.2 s
        wire.player.hold()
        before = len(wire.frames())
        await asyncio.sleep(1)
        wire.player.release()
        await asyncio.sleep(5)
        after = wire.frames()[before:]
        assert after == list(range(45, FRAMES)), "from the first frame of the word that was cut"

    wire = on_the_wire(scene)
    assert [n.kind for n in wire.notices] == ["playing", "playing", "drained"]
    assert [(s.heard_text, s.interrupted) for s in wire.spoken()] == [(TEXT, False)]
    recorded = [int.from_bytes(frame[:2], "little") for frame in wire.played]
    assert recorded == [*range(51), *range(45, FRAMES)], "the recording has what was heard, the cut word twice"


def test_a_clear_while_held_accounts_for_the_hold_and_tells_the_network_no_second_time() -> None:
    async def scene(wire: Wire) -> None:
        await asyncio.sleep(1.01)
        wire.player.hold()
        await asyncio.sleep(1)
        (spoken,) = wire.player.clear()
        assert (spoken.heard_text, spoken.interrupted) == ("one two three", True)
        assert spoken.ended_at == pytest.approx(spoken.started_at + 1.01)
        sent = len(wire.sent)
        wire.player.release()
        await asyncio.sleep(5)
        assert wire.sent[sent:] == [], "nothing of it is ever sent again"

    assert on_the_wire(scene).clears() == 1


def test_a_hold_before_the_first_frame_clears_nothing_and_loses_nothing() -> None:
    async def scene(wire: Wire) -> None:
        wire.player.hold()
        await asyncio.sleep(1)
        assert wire.sent == []
        wire.player.release()
        await asyncio.sleep(5)

    wire = on_the_wire(scene)
    assert wire.frames() == list(range(FRAMES))
    assert wire.clears() == 0


def test_audio_that_comes_during_a_hold_waits_for_the_release() -> None:
    async def scene(wire: Wire) -> None:
        await asyncio.sleep(4)
        wire.player.hold()
        wire.playout.begin(2)
        wire.playout.push_text(2, speakable("Yes.", "en"))
        if wire.playout.push_audio(2, bytes(FRAME_BYTES * 10)):
            wire.player.kick()
        wire.playout.finish(2)
        sent = len(wire.sent)
        await asyncio.sleep(1)
        assert wire.sent[sent:] == []
        wire.player.release()
        await asyncio.sleep(1)
        assert len(wire.frames()) == FRAMES + 10

    assert [s.generation for s in on_the_wire(scene).spoken()] == [1, 2]
