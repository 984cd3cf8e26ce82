"""Fixed lines: made once, kept in the store, and spoken from there without a synthesizer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from serve_app.conversation.lines import LineCache, LineKey, PreparedLine, line_texts, make_lines
from serve_app.conversation.turn_types import ReplyFailed, ReplyFinished, SpeakLine
from serve_app.errors import ProviderError, UnavailableError
from serve_app.jobs.prepare_lines import PrepareLines
from serve_app.jobs.runner import JobFailed
from serve_app.providers.base import Word
from serve_app.scenarios.scripted_tts import ScriptedSynthesizer
from serve_app.scenarios.virtual_time import run_virtual
from serve_app.scenarios.vocabulary import Vocabulary
from serve_app.store.db import Database
from serve_app.store.repositories import PREPARE_LINES, Agents, JobRow, Jobs
from tests.unit.session_fixtures import OPENING, Scene, make_agent
from tests.unit.speaker_fixtures import AUDIO, Booth, asked

pytest_plugins = ("tests.unit.store_fixtures",)

LINE = PreparedLine(b"\x01\x02" * 800, (Word("Hello,", 0.0, 0.05), Word("you.", 0.05, None)))
AGENT = make_agent(voice="v1", languages={"es": {"voice": "v2"}, "fr": {}})
TERSE = make_agent(
    opening="Hello.",
    policies={
        "fillers": ["Hm."],
        "apology": "Sorry.",
        "failure_farewell": "Sorry. Bye.",
        "farewell": "Bye.",
        "still_there": "Hello?",
        "opted_out": "Noted.",
        "duration_warning": "Soon.",
    },
)


@dataclass
class Store:
    """An object store that counts."""

    objects: dict[str, bytes] = field(default_factory=dict)
    reads: int = 0
    takes_s: float = 0.0
    away: bool = False

    async def put(self, key: str, data: bytes) -> None:
        if self.away:
            raise UnavailableError("the store is down")
        self.objects[key] = data

    async def get(self, key: str) -> bytes:
        self.reads += 1
        await asyncio.sleep(self.takes_s)
        if self.away:
            raise UnavailableError("the store is down")
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key]


def key(n: int = 0) -> LineKey:
    return LineKey("sound", f"text {n}")


# --- a line and its places -------------------------------------------------------------------------------------------


def test_a_line_is_stored_with_its_words() -> None:
    assert PreparedLine.from_bytes(LINE.to_bytes()) == LINE


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\n", b"not json\nabc", b'{"version":1}\nabc', b'{"version":2}\nabc', b"[]\na"]
)
async def test_a_damaged_object_is_no_line_and_no_fault(data: bytes) -> None:
    lines = LineCache(Store({key().object_key("t"): data}))
    lines.begin_loading("t", [key()])
    assert await lines.loaded(key()) is None


async def test_a_line_is_fetched_once_however_many_calls_want_it() -> None:
    store = Store({key().object_key("t"): LINE.to_bytes()}, takes_s=0.01)
    lines = LineCache(store)
    for _ in range(5):
        lines.begin_loading("t", [key()])
    assert lines.get(key()) is None
    assert await asyncio.gather(*(lines.loaded(key()) for _ in range(5))) == [LINE] * 5
    lines.begin_loading("t", [key()])
    assert (lines.get(key()), store.reads) == (LINE, 1)


async def test_a_call_that_leaves_does_not_take_the_line_from_the_others() -> None:
    lines = LineCache(Store({key().object_key("t"): LINE.to_bytes()}, takes_s=0.01))
    lines.begin_loading("t", [key()])
    leaving, staying = (asyncio.create_task(lines.loaded(key())) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == LINE


async def test_tenants_do_not_share_stored_lines() -> None:
    store = Store()
    await LineCache(store).put("one", key(), LINE)
    other = LineCache(store)
    other.begin_loading("two", [key()])
    assert await other.loaded(key()) is None
    assert len(store.objects) == 1


async def test_memory_is_bounded_and_keeps_what_was_used_last() -> None:
    lines = LineCache(limit_bytes=3 * len(LINE.audio))
    for n in range(3):
        await lines.put("t", key(n), LINE)
    assert lines.get(key(0)) is LINE
    await lines.put("t", key(3), LINE)
    assert [n for n in range(4) if lines.get(key(n)) is not None] == [0, 2, 3]


async def test_a_store_that_is_away_costs_no_call() -> None:
    lines = LineCache(Store(away=True))
    lines.begin_loading("t", [key()])
    assert await lines.loaded(key()) is None
    await lines.put("t", key(), LINE)
    assert lines.get(key()) is LINE


# --- making ----------------------------------------------------------------------------------------------------------


def test_every_line_in_every_language_is_made_once_the_opening_first() -> None:
    synthesizer, store = ScriptedSynthesizer(Vocabulary()), Store()
    wanted = sum(len(line_texts(AGENT, language)) for language in ("en", "es", "fr"))
    assert run_virtual(make_lines(LineCache(store), synthesizer, "t", AGENT, AUDIO, opening_only=True)) == 1
    assert run_virtual(make_lines(LineCache(store), synthesizer, "t", AGENT, AUDIO)) == wanted - 1
    assert len(store.objects) == wanted
    assert [(r.language, r.voice) for r in synthesizer.requests[1:]] == [("en", "v1"), ("es", "v2"), ("fr", "v1")]
    utterances = synthesizer.utterances
    assert run_virtual(make_lines(LineCache(store), synthesizer, "t", AGENT, AUDIO)) == 0
    assert synthesizer.utterances == utterances, "nothing is made again"
    assert (synthesizer.utterances_open, synthesizer.connections_open) == (0, 0)


def test_the_lines_of_an_agent_are_all_that_the_turn_machine_says_by_itself() -> None:
    texts = line_texts(AGENT, "en")
    assert texts[0] == OPENING
    named = ("apology", "still_there", "duration_warning", "farewell", "failure_farewell", "opted_out")
    assert set(texts) == {OPENING, *AGENT.fillers(), *(AGENT.line(name) for name in named)}
    assert OPENING not in line_texts(AGENT, "es")


def test_a_synthesizer_that_fails_leaves_nothing_half_made() -> None:
    synthesizer, store = ScriptedSynthesizer(Vocabulary()), Store()
    synthesizer.plans = ["ok", "cut"]
    with pytest.raises(ProviderError):
        run_virtual(make_lines(LineCache(store), synthesizer, "t", AGENT, AUDIO))
    assert len(store.objects) == 1
    assert (synthesizer.utterances_open, synthesizer.connections_open) == (0, 0)


# --- the job ---------------------------------------------------------------------------------------------------------


def handler(db: Database, store: Store, synthesizer: ScriptedSynthesizer) -> PrepareLines:
    return PrepareLines(db, store, lambda: synthesizer, AUDIO)  # type: ignore[arg-type]


async def prepare_jobs(db: Database) -> list[JobRow]:
    return await Jobs(db).lease("me", kinds=[PREPARE_LINES], limit=10, lease_s=60)


async def test_applying_an_agent_has_its_lines_made(db: Database) -> None:
    document = TERSE.model_dump(mode="json")
    for _ in range(2):
        await Agents(db, "t").apply(TERSE.name, document)
    (job,) = await prepare_jobs(db)
    store, synthesizer = Store(), ScriptedSynthesizer(Vocabulary(), first_audio_s=0.0)
    await handler(db, store, synthesizer)(job)
    assert len(store.objects) == synthesizer.utterances == 8


async def test_an_opening_that_had_to_be_made_has_the_other_lines_made_too(db: Database) -> None:
    await Agents(db, "t").apply(TERSE.name, TERSE.model_dump(mode="json"))
    await prepare_jobs(db)
    store, synthesizer = Store(), ScriptedSynthesizer(Vocabulary(), first_audio_s=0.0)
    prepare = handler(db, store, synthesizer)
    for _ in range(2):
        assert await prepare.opening("t", TERSE.name, 1)
    assert len(store.objects) == 1
    assert [job.payload for job in await prepare_jobs(db)] == [{"agent": TERSE.name, "version": 1}]
    assert not await prepare.opening("t", TERSE.name, 2)
    synthesizer.down = True
    assert not await handler(db, Store(), synthesizer).opening("t", TERSE.name, 1)


async def test_a_job_without_its_agent_is_dead(db: Database) -> None:
    await Agents(db, "t").apply(TERSE.name, TERSE.model_dump(mode="json"))
    (job,) = await prepare_jobs(db)
    job.payload["version"] = 9
    with pytest.raises(JobFailed):
        await handler(db, Store(), ScriptedSynthesizer(Vocabulary()))(job)


# --- in a call -------------------------------------------------------------------------------------------------------


def prepared(booth: Booth, store: Store | None = None) -> Booth:
    """Its lines lie in the store, or, without one, in memory."""
    lines = LineCache(store)
    run_virtual(make_lines(lines, ScriptedSynthesizer(booth.words), "default", booth.agent, AUDIO))
    booth.lines = LineCache(store) if store is not None else lines
    return booth


def test_a_prepared_line_needs_no_synthesizer() -> None:
    booth = prepared(Booth())
    booth.tts.down = True

    async def act(booth: Booth) -> None:
        booth.speaker.start_line(booth.group, SpeakLine(1, "opening", OPENING))
        assert booth.events == [ReplyFinished(1)]
        assert (await booth.drained(1)).heard_text == OPENING

    booth.run(act)
    assert " ".join(booth.heard) == OPENING
    assert booth.tts.utterances == 0


@pytest.mark.parametrize(("takes_s", "live"), [(0.0, 0), (0.2, 0), (1.0, 1)])
def test_a_line_on_its_way_from_the_store_is_waited_for_a_moment(takes_s: float, live: int) -> None:
    store = Store()
    booth = prepared(Booth(), store)
    store.takes_s = takes_s

    async def act(booth: Booth) -> None:
        booth.speaker.start_line(booth.group, SpeakLine(1, "opening", OPENING))
        assert (await booth.drained(1)).heard_text == OPENING

    booth.run(act)
    assert booth.tts.utterances == live


def test_without_prepared_audio_a_line_for_a_dead_synthesizer_fails() -> None:
    booth = Booth()

    async def act(booth: Booth) -> None:
        booth.speaker.start_line(booth.group, SpeakLine(1, "apology", "Sorry.", prepared_only=True))
        await booth.ended(1)

    booth.run(act)
    (failed,) = booth.of(ReplyFailed)
    assert (failed.stage, failed.has_alternative, booth.tts.utterances) == ("tts", False, 0)


def test_a_filler_is_heard_before_the_reply_that_is_late() -> None:
    booth = prepared(Booth())
    filler = booth.agent.fillers()[0]
    booth.model.first_token_s = 1.5

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, 2, asked("Hello", "Yes?", "When"))
        await asyncio.sleep(1.2)
        booth.speaker.start_line(booth.group, SpeakLine(1, "filler", filler, prepared_only=True, before=2))
        await booth.drained(2)

    booth.run(act)
    assert " ".join(booth.heard) == f"{filler} This is answer number one."


@pytest.mark.parametrize("late", [True, False])
def test_a_filler_that_is_not_prepared_or_comes_too_late_is_left_out(late: bool) -> None:
    booth = prepared(Booth()) if late else Booth()
    filler = booth.agent.fillers()[0]

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, 2, asked("Hello", "Yes?", "When"))
        await asyncio.sleep(0.5 if late else 0.1)
        booth.speaker.start_line(booth.group, SpeakLine(1, "filler", filler, prepared_only=True, before=2))
        await booth.drained(2)

    booth.run(act)
    assert " ".join(booth.heard) == "This is answer number one."
    assert not any(event.generation == 1 for event in [*booth.of(ReplyFailed), *booth.of(ReplyFinished)])


def test_a_call_makes_the_lines_that_nobody_made_and_the_next_one_has_them() -> None:
    store = Store()
    first = Booth(lines=LineCache(store), prepares=True)

    async def act(booth: Booth) -> None:
        booth.speaker.start_line(booth.group, SpeakLine(1, "opening", OPENING))
        await asyncio.sleep(30)

    first.run(act)
    wanted = len(line_texts(first.agent, "en"))
    assert len(store.objects) == wanted
    assert first.tts.utterances == wanted + 1, "the opening was spoken live, and made for the next call"
    second = Booth(lines=LineCache(store), prepares=True)
    second.words = first.words
    second.run(act)
    assert second.tts.utterances == 0 and second.tts.utterances_open == 0
    assert " ".join(second.heard) == OPENING


def test_calls_that_begin_together_make_each_line_once() -> None:
    lines = LineCache()
    booths = [Booth(lines=lines, prepares=True) for _ in range(3)]

    async def act(booth: Booth) -> None:
        booth.speaker.cancel(1)
        await asyncio.sleep(30)

    async def together() -> None:
        await asyncio.gather(*(booth.act_out(act) for booth in booths))

    run_virtual(together())
    assert sum(booth.tts.utterances for booth in booths) == len(line_texts(booths[0].agent, "en"))


def test_after_a_change_of_language_lines_and_replies_are_in_that_language() -> None:
    booth = prepared(Booth(agent=AGENT, prepares=True))
    line = AGENT.line("still_there", "es")

    async def act(booth: Booth) -> None:
        booth.speaker.cancel(0)
        booth.speaker.switch_language("es", AGENT.voice_in("es"))
        booth.speaker.start_line(booth.group, SpeakLine(1, "still_there", line))
        assert booth.events == [ReplyFinished(1)]
        booth.speaker.start_reply(booth.group, 2, asked("Hola"))
        await booth.drained(2)

    booth.run(act)
    assert " ".join(booth.heard).startswith(line)
    assert (booth.tts.requests[-1].language, booth.tts.requests[-1].voice) == ("es", "v2")
    assert booth.tts.connections_open == 0


def test_the_opening_leaves_in_the_moment_in_which_the_network_connects() -> None:
    scene = Scene()
    booth = prepared(Booth(words=scene.words))
    scene.lines = booth.lines
    scene.tts.down = True
    sent: list[int] = []

    async def callee(scene: Scene) -> None:
        connected = asyncio.get_running_loop().time()
        for _ in range(10):
            await asyncio.sleep(0)
        # No time has passed: on a virtual clock everything that waited for nothing is done.
        assert asyncio.get_running_loop().time() == connected
        sent.append(scene.net.largest_send)
        await asyncio.sleep(10)
        scene.net.drop(1000)

    scene.play(callee)
    assert sent[0] > 0
    assert scene.memory.texts()[0] == ("agent", OPENING)
