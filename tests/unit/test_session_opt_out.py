"""Opt-outs in whole calls: written, then confirmed, then the call ends; and nothing takes them back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from serve_app.conversation import turn_types as t
from serve_app.conversation.lease import CallLease
from serve_app.conversation.session import OPT_OUT_WAIT_S
from serve_app.scenarios.scripted_llm import Answer
from tests.unit.session_fixtures import OPENING, Memory, Scene, make_agent, now

CONFIRMATION = make_agent().line("opted_out")
WORDS = "Please take me off your list"


@dataclass
class SlowStore(Memory):
    """Takes its time for an opt-out, and remembers when it was there."""

    takes_s: float = 0.0
    away: bool = False
    written_at: list[float] = field(default_factory=list)

    async def opt_out(self, lease: CallLease, source: str, text: str) -> None:
        await asyncio.sleep(self.takes_s)
        if self.away:
            raise OSError("the store is away")
        await super().opt_out(lease, source, text)
        self.written_at.append(now())


async def presses_nine(scene: Scene) -> None:
    await scene.net.agent_has_spoken()
    scene.net.press("9")


async def presses_nine_over_the_opening(scene: Scene) -> None:
    await scene.net.until(lambda: scene.net.heard_frames > 30)
    scene.net.press("9")


async def says_it(scene: Scene) -> None:
    await scene.net.agent_has_spoken()
    await scene.say(WORDS)


async def says_it_over_a_reply(scene: Scene) -> None:
    await scene.net.agent_has_spoken()
    await scene.say("Who is this")
    before = scene.net.heard_frames
    await scene.net.until(lambda: scene.net.heard_frames > before + 20)
    await scene.say(WORDS)


async def means_it(scene: Scene) -> None:
    """In words that only the model understands."""
    scene.llm.script = lambda request: Answer(tool="opt_out", arguments={"reason": "wants peace"})
    await scene.net.agent_has_spoken()
    await scene.say("I have had it with your company")


WAYS: list[tuple[Callable[[Scene], Awaitable[None]], str, str]] = [
    (presses_nine, "key", "9"),
    (presses_nine_over_the_opening, "key", "9"),
    (says_it, "phrase", WORDS),
    (says_it_over_a_reply, "phrase", WORDS),
    (means_it, "model", "wants peace"),
]


def way_of(act: Callable[[Scene], Awaitable[None]], then_s: float = 60) -> Callable[[Scene], Awaitable[None]]:
    async def callee(scene: Scene) -> None:
        await act(scene)
        await asyncio.sleep(then_s)

    return callee


def confirmed_at(scene: Scene) -> float:
    """On the loop's clock: the first frame of the confirmation that was heard."""
    return scene.net.opened_at + scene.utterances[-1].began


@pytest.mark.parametrize(("act", "source", "text"), WAYS, ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.parametrize("takes_s", [0.0, 0.4])
def test_it_is_written_before_it_is_confirmed_and_then_the_call_ends(
    act: Callable[[Scene], Awaitable[None]], source: str, text: str, takes_s: float
) -> None:
    scene = Scene(memory=SlowStore(takes_s=takes_s))
    scene.prepare_lines()
    result = scene.play(way_of(act))
    assert isinstance(scene.memory, SlowStore)
    assert (result.outcome, scene.net.hang_ups) == ("opted_out", ["carrier-1"])
    ((told, heard),) = scene.memory.opt_outs
    assert told == source and text.startswith(heard) and heard
    assert scene.memory.written_at[0] <= confirmed_at(scene)
    ((decided_at, _),) = scene.commands(t.OptOut)
    assert confirmed_at(scene) - scene.net.opened_at - decided_at <= takes_s + 0.1
    confirmation = scene.utterances[-1]
    assert (confirmation.line, confirmation.heard_text, confirmation.interrupted) == ("opted_out", CONFIRMATION, False)
    assert result.duration_s == pytest.approx(confirmation.ended, abs=0.2), "nothing is said after it"
    commands = [c for _, c in scene.commands(t.OptOut, t.StartReply, t.StartDraft, t.SpeakLine)]
    (line,) = commands[next(i for i, c in enumerate(commands) if isinstance(c, t.OptOut)) + 1 :]
    assert isinstance(line, t.SpeakLine) and line.kind == "opted_out"
    assert scene.nothing_is_left()


def test_nothing_that_is_said_over_the_confirmation_takes_it_back() -> None:
    scene = Scene()
    scene.prepare_lines()

    async def callee(scene: Scene) -> None:
        await presses_nine(scene)
        before = scene.net.heard_frames
        await scene.net.until(lambda: scene.net.heard_frames > before + 10)
        await scene.say("No wait stop I changed my mind", ms=1000)
        scene.net.press("9")
        await asyncio.sleep(60)

    result = scene.play(callee)
    assert result.outcome == "opted_out"
    assert scene.memory.opt_outs == [("key", "9")]
    assert scene.net.clears == 0
    assert scene.agent_heard() == [OPENING, CONFIRMATION]
    assert scene.llm.requests == []


def test_a_store_that_is_away_delays_the_confirmation_by_a_moment_and_gets_the_wish_later() -> None:
    scene = Scene(memory=SlowStore(away=True))
    scene.prepare_lines()
    assert isinstance(scene.memory, SlowStore)
    store = scene.memory

    async def callee(scene: Scene) -> None:
        await presses_nine(scene)
        await scene.net.agent_has_spoken()
        assert store.opt_outs == []
        store.away = False
        await asyncio.sleep(60)

    result = scene.play(callee)
    assert result.outcome == "opted_out"
    ((decided_at, _),) = scene.commands(t.OptOut)
    assert scene.utterances[-1].began == pytest.approx(decided_at + OPT_OUT_WAIT_S, abs=0.1)
    assert scene.agent_heard() == [OPENING, CONFIRMATION]
    assert store.opt_outs == [("key", "9")]
    assert scene.nothing_is_left()


@pytest.mark.parametrize("words", ["Don't call me", "Stop calling me", WORDS])
def test_a_callee_who_hangs_up_with_these_words_has_opted_out_all_the_same(words: str) -> None:
    """Before the end of the turn is told. In the middle of a sentence the first two might not mean it."""
    scene = Scene()

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say(words, ms=900)
        await asyncio.sleep(0.3)
        scene.net.drop(1000)

    result = scene.play(callee)
    assert scene.stt.turn_ends == []
    assert result.outcome == "opted_out"
    assert scene.memory.opt_outs == [("phrase", words)]
    assert scene.nothing_is_left()


def test_without_a_synthesizer_it_is_written_and_the_call_ends() -> None:
    scene = Scene()

    async def callee(scene: Scene) -> None:
        await scene.net.until(lambda: scene.net.heard_frames > 10)
        scene.tts.down = True
        scene.net.press("9")
        await asyncio.sleep(60)

    result = scene.play(callee)
    assert result.outcome == "opted_out"
    assert scene.memory.opt_outs == [("key", "9")]
    assert scene.net.hang_ups == ["carrier-1"]
    assert result.duration_s < 2
    assert scene.nothing_is_left()


def test_a_key_that_is_not_the_one_changes_nothing() -> None:
    scene = Scene()

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        for digit in "12345678*0#":
            scene.net.press(digit)
        await scene.say("Hi there")
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    assert scene.play(callee).outcome == "callee_hung_up"
    assert scene.memory.opt_outs == []
    assert scene.agent_heard() == [OPENING, "This is answer number 1."]
