"""The playout keeps the lead, cuts cleanly, and knows what the callee heard."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve_app.clock import SystemClock
from serve_app.conversation.far_marks import Mark
from serve_app.conversation.ledger import Spoken
from serve_app.conversation.player import Player
from serve_app.conversation.playout import BURST_FRAMES, Notice, PlayedFrame, Playout
from serve_app.conversation.speakable import Speakable, speakable
from serve_app.providers.base import AudioFormat, Word
from serve_app.telephony.base import WireMessage
from serve_app.telephony.vonage.wire import VonageLeg

LINEAR = AudioFormat("linear16", 8000)
FRAME = 320


def plain(text: str) -> Speakable:
    """Said as it is written."""
    return Speakable(text, text)


def audio_of(ms: float, fill: int = 1) -> bytes:
    return bytes([fill]) * LINEAR.bytes_for_ms(ms)


@dataclass
class Far:
    """Drives a playout as a driver does, and keeps what it gave."""

    playout: Playout
    now: float = 0.0
    frames: list[bytes] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    played: list[PlayedFrame] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    largest_burst: int = 0

    def tick(self) -> None:
        sent = self.playout.tick(self.now)
        frames = [item for item in sent if isinstance(item, bytes)]
        self.marks += [item.id for item in sent if isinstance(item, Mark)]
        self.largest_burst = max(self.largest_burst, len(frames))
        self.frames += frames
        self.played += self.playout.take_played()
        self.notices += self.playout.take_notices()

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            self.tick()
            wake = self.playout.next_wake(self.now)
            if wake is None or self.now + wake > until:
                self.now = until
                self.tick()
                return
            self.now += wake

    def spoken(self) -> list[Spoken]:
        return [n.spoken for n in self.notices if n.spoken is not None]

    def kinds(self) -> list[str]:
        return [n.kind for n in self.notices]


def playing(text: str, ms: float, words: tuple[Word, ...] = (), *, finish: bool = True) -> Far:
    far = Far(Playout(LINEAR, lead_ms=300))
    far.playout.begin(1)
    far.playout.push_text(1, plain(text))
    far.playout.push_audio(1, audio_of(ms))
    far.playout.push_words(1, words)
    if finish:
        far.playout.finish(1)
    return far


def even_words(text: str, word_ms: float) -> tuple[Word, ...]:
    return tuple(
        Word(word, start_s=i * word_ms / 1000, end_s=(i + 1) * word_ms / 1000) for i, word in enumerate(text.split())
    )


def test_a_whole_utterance_is_heard_and_reported_once() -> None:
    far = playing("One two three.", 1000)
    far.run(3)
    assert far.kinds() == ["playing", "drained"]
    (spoken,) = far.spoken()
    assert (spoken.heard_text, spoken.interrupted, spoken.played_ms) == ("One two three.", False, 1000)
    assert (spoken.started_at, spoken.ended_at) == (0.0, pytest.approx(1.0))
    assert b"".join(far.frames) == audio_of(1000)
    assert len(far.marks) == 2, "after the first frame, and at the end"
    assert far.playout.idle
    assert far.playout.next_wake(far.now) is None


def test_the_lead_builds_up_in_small_bursts_and_is_kept() -> None:
    far = playing("x", 5000)
    leads = []
    far.tick()
    assert len(far.frames) == BURST_FRAMES
    while far.now < 4:
        wake = far.playout.next_wake(far.now)
        assert wake is not None
        assert 0.005 <= wake <= BURST_FRAMES * 0.02 + 1e-4
        far.now += wake
        far.tick()
        if far.now > 0.3:
            leads.append(far.playout.ahead_s(far.now))
    assert min(leads) >= 0.3 - BURST_FRAMES * 0.02 - 1e-6
    assert max(leads) <= 0.3 + BURST_FRAMES * 0.02
    assert far.playout.underruns == 0


def test_the_tail_is_padded_to_a_whole_frame() -> None:
    far = playing("x", 30)
    far.run(1)
    assert b"".join(far.frames) == audio_of(30) + bytes(FRAME - FRAME // 2)


def test_mulaw_is_padded_with_its_own_silence() -> None:
    playout = Playout(AudioFormat("mulaw", 8000), lead_ms=300)
    playout.begin(1)
    playout.push_audio(1, b"\x01" * 100)
    playout.finish(1)
    assert playout.tick(0.0)[0] == b"\x01" * 100 + b"\xff" * 60


def test_an_interrupt_counts_only_what_was_played_not_what_was_sent() -> None:
    text = "one two three four five six seven eight nine ten."
    far = playing(text, 10 * 300, even_words(text, 300))
    far.run(1.0)
    sent = len(far.frames)
    (spoken,) = far.playout.interrupt(far.now)
    # 1.0 s played: three words of 300 ms. 1.3 s were sent.
    assert sent * 20 >= 1240
    assert spoken.heard_text == "one two three"
    assert spoken.unheard_text == " four five six seven eight nine ten."
    assert spoken.interrupted
    assert far.playout.idle
    far.run(2)
    assert len(far.frames) == sent
    assert sum(20 for _ in far.played) == pytest.approx(1000, abs=20)


def test_without_word_timings_the_text_is_cut_in_proportion() -> None:
    far = playing("aaaa bbbb cccc dddd eeee ", 2500)
    far.run(1.25)
    (spoken,) = far.playout.interrupt(far.now)
    assert spoken.heard_text == "aaaa bbbb"


def test_a_mark_is_asked_for_at_the_end_of_each_sentence() -> None:
    far = Far(Playout(LINEAR, lead_ms=300))
    far.playout.begin(1)
    far.playout.push_text(1, plain("One two. "))
    far.playout.push_text(1, plain("Three four."))
    far.playout.push_words(1, even_words("One two. Three four.", 250))
    far.playout.push_audio(1, audio_of(1000))
    far.playout.finish(1)
    far.run(2)
    assert len(far.marks) == 3, "and after the first frame"


def test_a_confirmed_mark_is_no_reason_to_wait_and_an_unknown_one_changes_nothing() -> None:
    far = playing("x", 100)
    far.tick()
    far.run(0.05)
    far.playout.confirm("forged", far.now)
    assert "drained" not in far.kinds()
    far.run(0.04)
    far.playout.confirm(far.marks[-1], far.now)
    far.run(0.01)
    assert far.kinds() == ["playing", "confirmed", "drained"]
    assert far.spoken()[0].heard_text == "x"


def test_once_marks_come_back_the_end_waits_for_its_mark_but_not_for_ever() -> None:
    far = playing("x", 100)
    far.run(0.1)
    far.playout.confirm(far.marks[-1], far.now)
    far.tick()
    for wait, expected in ((0.9, 1), (0.4, 2)):
        if wait == 0.9:
            far.playout.begin(2)
            far.playout.push_text(2, plain("y"))
            far.playout.push_audio(2, audio_of(100))
            far.playout.finish(2)
        far.run(wait)
        assert far.kinds().count("drained") == expected


def test_an_overdue_mark_limits_what_counts_as_heard() -> None:
    sentences = ["Hi. ", "One two three. ", "Four five six seven eight nine ten eleven twelve."]
    far = Far(Playout(LINEAR, lead_ms=300))
    far.playout.begin(1)
    for sentence in sentences:
        far.playout.push_text(1, plain(sentence))
    far.playout.push_words(1, even_words("".join(sentences), 300))
    far.playout.push_audio(1, audio_of(13 * 300))
    far.run(0.4)
    far.playout.confirm(far.marks[1], far.now)
    # The mark after "three." is due at 1.2 s. It never comes: the far end has stalled.
    far.run(2.3)
    (spoken,) = far.playout.interrupt(far.now)
    assert spoken.heard_text == "Hi. One two three."


def test_a_pause_inside_an_utterance_is_dry_and_then_playing_again() -> None:
    far = playing("One two.", 200, finish=False)
    far.run(1)
    assert far.kinds() == ["playing", "dry"]
    far.playout.push_audio(1, audio_of(100))
    far.playout.finish(1)
    far.run(1)
    assert far.kinds() == ["playing", "dry", "playing", "drained"]
    assert far.playout.underruns == 1


def test_two_utterances_play_one_after_the_other() -> None:
    far = playing("First.", 200)
    far.playout.begin(2)
    far.playout.push_text(2, plain("Second."))
    far.playout.push_audio(2, audio_of(200, fill=2))
    far.playout.finish(2)
    far.run(2)
    assert [s.heard_text for s in far.spoken()] == ["First.", "Second."]
    assert b"".join(far.frames) == audio_of(200) + audio_of(200, fill=2)
    assert far.playout.underruns == 0


def test_audio_of_an_abandoned_utterance_is_never_played() -> None:
    far = playing("x", 400)
    far.run(0.1)
    far.playout.interrupt(far.now)
    before = len(far.frames)
    far.playout.push_audio(1, audio_of(400))
    far.playout.push_text(1, plain("late"))
    far.playout.finish(1)
    far.run(1)
    assert len(far.frames) == before


def test_a_failed_utterance_does_not_claim_the_text_it_never_spoke() -> None:
    far = Far(Playout(LINEAR, lead_ms=300))
    far.playout.begin(1)
    far.playout.push_text(1, plain("one two three four five six."))
    far.playout.push_words(1, even_words("one two", 300))
    far.playout.push_audio(1, audio_of(600))
    far.playout.finish(1, failed=True)
    far.run(2)
    (spoken,) = far.spoken()
    assert (spoken.heard_text, spoken.interrupted) == ("one two", True)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(alphabet="abcdefg,", min_size=1, max_size=9), min_size=2, max_size=25),
    st.integers(80, 500),
    st.floats(0, 8),
)
def test_the_heard_text_is_at_most_one_word_off(words: list[str], word_ms: int, cut_s: float) -> None:
    text = " ".join(words)
    far = playing(text, word_ms * len(words), even_words(text, word_ms))
    far.run(cut_s)
    spoken = far.spoken() or far.playout.interrupt(far.now)
    heard_words = len(spoken[0].heard_text.split())
    truth = min(len(words), cut_s * 1000 / word_ms)
    # Words of punctuation only are spoken by nobody, so they carry no cut of their own.
    silent = sum(1 for word in words if not word.strip(","))
    assert abs(heard_words - truth) <= 1 + silent


def far_with(words: tuple[Word, ...], text: str, ms: float) -> Far:
    """Numbered frames, so that a test sees which ones are played."""
    far = Far(Playout(LINEAR, lead_ms=300))
    far.playout.begin(1)
    far.playout.push_text(1, plain(text))
    far.playout.push_words(1, words)
    far.playout.push_audio(1, b"".join(index.to_bytes(FRAME, "little") for index in range(int(ms / 20))))
    far.playout.finish(1)
    return far


def numbers_played(far: Far) -> list[int]:
    return [int.from_bytes(played.frame, "little") for played in far.played]


def hold(far: Far) -> None:
    far.playout.hold(far.now)
    far.tick()


def test_after_a_hold_speech_goes_on_from_the_beginning_of_the_word_that_was_cut() -> None:
    text = "one two three four five."
    far = far_with(even_words(text, 300), text, 1500)
    far.run(0.75)  # in the middle of "three", which began at 0.6 s
    hold(far)
    far.run(1)
    assert far.kinds() == ["playing"], "a hold is neither dry nor the end"
    far.playout.release(far.now)
    far.run(3)
    assert numbers_played(far) == [*range(38), *range(30, 75)]
    assert [played.at for played in far.played][38] == pytest.approx(1.75)
    assert far.kinds() == ["playing", "playing", "drained"]
    assert (far.spoken()[0].heard_text, far.spoken()[0].interrupted) == (text, False)
    assert far.playout.underruns == 0


def test_without_word_timings_a_hold_cuts_between_two_frames() -> None:
    far = far_with((), "one two three.", 1000)
    far.run(0.51)
    hold(far)
    far.playout.release(far.now)
    far.run(3)
    assert numbers_played(far) == [*range(26), *range(25, 50)]


def test_a_hold_between_two_words_repeats_nothing() -> None:
    words = (Word("one", 0.0, 0.2), Word("two", 0.4, 0.6))
    far = far_with(words, "one two", 600)
    far.run(0.3)
    hold(far)
    far.playout.release(far.now)
    far.run(2)
    assert numbers_played(far)[:17] == [*range(16), 15]
    assert numbers_played(far)[-1] == 29


def test_a_hold_that_becomes_an_interruption_counts_what_was_heard_before_it() -> None:
    text = "one two three four five."
    far = far_with(even_words(text, 300), text, 1500)
    far.run(0.75)
    hold(far)
    far.run(1)
    (spoken,) = far.playout.interrupt(far.now)
    assert (spoken.heard_text, spoken.unheard_text) == ("one two", " three four five.")
    assert spoken.ended_at == pytest.approx(0.75)
    assert far.playout.begin(2)
    far.playout.push_audio(2, audio_of(100))
    far.playout.finish(2)
    far.run(1)
    assert len(far.played) == 38 + 5, "the hold is over"


def test_a_second_hold_while_the_word_is_said_again_forgets_nothing() -> None:
    text = "one two three."
    far = far_with(even_words(text, 300), text, 900)
    far.run(0.59)
    hold(far)
    far.playout.release(far.now)
    far.run(0.02)
    hold(far)
    (spoken,) = far.playout.interrupt(far.now)
    assert spoken.heard_text == "one"
    assert spoken.played_ms == pytest.approx(590)


def test_audio_that_comes_during_a_hold_waits() -> None:
    far = playing("one two", 200, finish=False)
    far.run(0.09)
    hold(far)
    assert not far.playout.push_audio(1, audio_of(200))
    far.playout.finish(1)
    assert far.playout.next_wake(far.now) is None
    far.run(1)
    assert len(far.played) == 5
    far.playout.release(far.now)
    far.run(1)
    assert len(far.played) == 21, "the frame that was cut is played again"


def test_a_filler_is_played_ahead_of_a_reply_that_has_not_begun() -> None:
    far = Far(Playout(LINEAR, lead_ms=300))
    far.playout.begin(1)
    assert far.playout.begin(2, before=1)
    far.playout.push_text(2, plain("Um."))
    far.playout.push_audio(2, audio_of(100, fill=2))
    far.playout.finish(2)
    far.playout.push_audio(1, audio_of(100, fill=1))
    far.playout.push_text(1, plain("Yes."))
    far.playout.finish(1)
    far.run(1)
    assert b"".join(far.frames) == audio_of(100, fill=2) + audio_of(100, fill=1)
    assert [notice.generation for notice in far.notices if notice.kind == "drained"] == [2, 1]


def dry(text: str = "one two") -> Far:
    """A reply that has sounded for 200 ms, and of which more must come."""
    far = Far(Playout(LINEAR, lead_ms=300))
    far.playout.begin(1)
    far.playout.push_text(1, plain(text))
    far.playout.push_audio(1, audio_of(200))
    far.run(1)
    assert [notice.kind for notice in far.notices] == ["playing", "dry"]
    return far


def test_a_filler_is_played_inside_a_reply_that_has_fallen_dry() -> None:
    far = dry()
    assert far.playout.begin(2, before=1)
    far.playout.push_text(2, plain("Um."))
    far.playout.push_audio(2, audio_of(100, fill=2))
    far.playout.finish(2)
    far.run(0.05)
    far.playout.push_audio(1, audio_of(200, fill=3))
    far.playout.finish(1)
    far.run(1)
    assert b"".join(far.frames) == audio_of(200) + audio_of(100, fill=2) + audio_of(200, fill=3)
    told = [(notice.kind, notice.generation) for notice in far.notices[2:]]
    assert told == [("playing", 2), ("playing", 1), ("drained", 2), ("drained", 1)]
    spoken = {notice.generation: notice.spoken for notice in far.notices if notice.spoken is not None}
    assert (spoken[1].heard_text, spoken[1].interrupted, spoken[1].played_ms) == ("one two", False, 400)
    assert far.playout.underruns == 1, "it was one, filler or not"
    assert far.playout.idle


def test_a_reply_that_breaks_off_after_the_filler_inside_it_is_told_as_heard() -> None:
    far = dry("one two three four")
    far.playout.push_words(1, (Word("one", 0.0, 0.1), Word("two", 0.1, 0.2), Word("three", 0.2, 0.3)))
    assert far.playout.begin(2, before=1)
    far.playout.push_text(2, plain("Um."))
    far.playout.push_audio(2, audio_of(400, fill=2))
    far.playout.finish(2)
    far.run(0.2)
    filler, reply = far.playout.interrupt(far.now)
    assert (filler.generation, reply.generation) == (2, 1)
    assert (reply.heard_text, reply.interrupted) == ("one two", True)


@pytest.mark.parametrize("what", ["more is there", "held", "its end is there"])
def test_nothing_is_queued_inside_a_reply_that_goes_on_by_itself(what: str) -> None:
    far = dry()
    if what == "more is there":
        far.playout.push_audio(1, audio_of(40))
    elif what == "held":
        far.playout.hold(far.now)
    else:
        far.playout.finish(1)
    assert not far.playout.begin(2, before=1)


def test_nothing_is_queued_ahead_of_a_reply_that_plays_or_is_over() -> None:
    far = playing("x", 100)
    far.tick()
    assert not far.playout.begin(2, before=1)
    far.run(1)
    assert not far.playout.begin(3, before=1)
    assert far.playout.idle


def test_what_was_not_spoken_yet_is_known_in_words_as_written() -> None:
    playout = Playout(LINEAR, lead_ms=300)
    playout.begin(1)
    piece = speakable("It is $12.50 today. ", "en")
    playout.push_text(1, piece)
    playout.push_text(1, plain("Fine?"))
    assert playout.unspoken_text(1) == "It is $12.50 today. Fine?"
    playout.push_words(1, even_words(piece.spoken, 100))
    playout.push_audio(1, audio_of(500))
    assert playout.audio_s(1) == pytest.approx(0.5)
    # "It is twelve dollars and": the amount is not complete.
    assert playout.unspoken_text(1) == " $12.50 today. Fine?"
    playout.push_audio(1, audio_of(250))
    assert playout.audio_s(1) == pytest.approx(0.75)
    assert playout.unspoken_text(1) == " today. Fine?"
    playout.interrupt(0.0)
    assert (playout.unspoken_text(1), playout.audio_s(1)) == ("", 0.0)


def test_the_mark_after_the_first_frame_is_told_once() -> None:
    far = playing("One two.", 1000)
    far.tick()
    assert len(far.marks) == 1
    assert far.playout.tick(far.now)[1:2] != [far.marks[0]]
    far.run(0.02)
    far.playout.confirm(far.marks[0], far.now)
    far.run(2)
    far.playout.confirm(far.marks[-1], far.now)
    far.run(2)
    assert far.kinds() == ["playing", "confirmed", "drained"]


def test_a_mark_that_a_hold_dropped_is_asked_for_again() -> None:
    far = playing("One two.", 1000)
    far.run(0.05)
    (dropped,) = far.marks
    hold(far)
    far.playout.confirm(dropped, far.now)
    far.playout.release(far.now)
    far.tick()
    assert far.kinds() == ["playing", "playing"], "what was cleared proves nothing"
    far.playout.confirm(far.marks[1], far.now)
    far.tick()
    assert far.kinds() == ["playing", "playing", "confirmed"]


def test_odd_bytes_between_chunks_make_no_noise() -> None:
    playout = Playout(LINEAR, lead_ms=300)
    playout.begin(1)
    audio = bytes(range(256)) * 5
    for start in range(0, len(audio), 7):
        playout.push_audio(1, audio[start : start + 7])
    playout.finish(1)
    sent = b"".join(item for item in playout.tick(0.0) if isinstance(item, bytes))
    assert sent == audio


class PlayoutMachine(RuleBasedStateMachine):
    """Random pushes, ticks, confirmations and interrupts: the invariants hold whatever the order."""

    @initialize(lead_ms=st.integers(200, 400))
    def start(self, lead_ms: int) -> None:
        self.lead_s = lead_ms / 1000
        self.playout = Playout(LINEAR, lead_ms=lead_ms)
        self.now = 100.0
        self.generation = 0
        self.open: int | None = None
        self.counter = 0
        self.pushed: dict[int, bytes] = {}
        self.texts: dict[int, str] = {}
        self.sent: list[bytes] = []
        self.recorded: list[PlayedFrame] = []
        self.spoken: dict[int, Spoken] = {}
        self.marks: list[str] = []
        self.cleared = 0
        self.held = False

    @precondition(lambda self: self.open is None)
    @rule()
    def begin(self) -> None:
        self.generation += 1
        self.open = self.generation
        self.pushed[self.generation], self.texts[self.generation] = b"", ""
        self.playout.begin(self.generation)

    @precondition(lambda self: self.open is not None)
    @rule(samples=st.integers(1, 4000))
    def push_audio(self, samples: int) -> None:
        # Each sample is numbered, so that order and loss are visible.
        audio = b"".join((self.counter + i & 0x7FFF).to_bytes(2, "little") for i in range(samples))
        self.counter += samples
        self.pushed[self.open] += audio
        self.playout.push_audio(self.open, audio)

    @precondition(lambda self: self.open is not None)
    @rule(text=st.text(alphabet="abc .", min_size=1, max_size=20), timed=st.booleans())
    def push_text(self, text: str, timed: bool) -> None:
        self.texts[self.open] += text
        self.playout.push_text(self.open, plain(text))
        if timed:
            self.playout.push_words(
                self.open, tuple(Word(w, None, len(self.texts[self.open]) * 0.06) for w in text.split())
            )

    @precondition(lambda self: self.open is not None)
    @rule(failed=st.booleans())
    def finish(self, failed: bool) -> None:
        self.playout.finish(self.open, failed=failed)
        self.open = None

    @rule(seconds=st.floats(0, 0.4))
    def advance(self, seconds: float) -> None:
        self.now += seconds
        ahead = self.playout.ahead_s(self.now)
        out = self.playout.tick(self.now)
        frames = [item for item in out if isinstance(item, bytes)]
        self.marks += [item.id for item in out if isinstance(item, Mark)]
        assert len(frames) <= BURST_FRAMES
        assert not (self.held and out)
        assert all(len(frame) == FRAME for frame in frames)
        assert self.playout.ahead_s(self.now) <= max(ahead, self.lead_s + 0.02 + 1e-6)
        self.sent += frames
        self._collect()

    @precondition(lambda self: self.marks)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        self.playout.confirm(data.draw(st.sampled_from(self.marks)), self.now)
        self._collect()

    @precondition(lambda self: self.open is not None)
    @rule(samples=st.integers(0, 3000))
    def begin_before(self, samples: int) -> None:
        self.generation += 1
        self.texts[self.generation], self.pushed[self.generation] = "um.", bytes(2 * samples)
        if not self.playout.begin(self.generation, before=self.open):
            del self.texts[self.generation], self.pushed[self.generation]
            return
        self.playout.push_text(self.generation, plain("um."))
        self.playout.push_audio(self.generation, bytes(2 * samples))
        self.playout.finish(self.generation)

    @rule()
    def hold(self) -> None:
        self.playout.hold(self.now)
        self.held = True
        self._collect()
        del self.sent[len(self.recorded) :]
        assert self.playout.ahead_s(self.now) == 0
        assert self.playout.next_wake(self.now) is None

    @rule()
    def release(self) -> None:
        self.playout.release(self.now)
        self.held = False
        self._collect()

    @rule()
    def interrupt(self) -> None:
        for spoken in self.playout.interrupt(self.now):
            self._keep(spoken)
        self._collect()
        self.open = None
        self.held = False
        self.cleared = len(self.sent) - len(self.recorded)
        del self.sent[len(self.recorded) :]
        assert self.playout.ahead_s(self.now) == 0

    def _collect(self) -> None:
        self.recorded += self.playout.take_played()
        for notice in self.playout.take_notices():
            if notice.spoken is not None:
                self._keep(notice.spoken)

    def _keep(self, spoken: Spoken) -> None:
        assert spoken.generation not in self.spoken
        self.spoken[spoken.generation] = spoken
        assert spoken.heard_text + spoken.unheard_text == spoken.text == self.texts[spoken.generation]
        assert spoken.played_ms * LINEAR.bytes_for_ms(1) <= len(self.pushed[spoken.generation]) + FRAME

    @invariant()
    def recorded_is_what_was_sent_and_not_cleared(self) -> None:
        if not hasattr(self, "playout"):
            return
        assert [played.frame for played in self.recorded] == self.sent[: len(self.recorded)]
        assert len(self.sent) - len(self.recorded) <= round((self.lead_s + 0.02) / 0.02) + 1
        times = [played.at for played in self.recorded]
        assert all(later > earlier for earlier, later in itertools.pairwise(times))

    def teardown(self) -> None:
        if not hasattr(self, "playout"):
            return
        if self.open is not None:
            self.playout.finish(self.open)
        self.release()
        self.advance(0)  # as a driver does after every push
        for _ in range(3000):
            wake = self.playout.next_wake(self.now)
            if wake is None:
                break
            self.advance(wake)
        assert self.playout.idle
        assert set(self.spoken) == set(self.pushed)


TestPlayoutMachine = PlayoutMachine.TestCase
TestPlayoutMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_a_barge_in_clears_what_was_held_up_on_its_way() -> None:
    """By the model all is played; the missing mark says that the far buffer still has some of it."""

    class Port:
        def __init__(self) -> None:
            self.sent: list[WireMessage] = []

        def send(self, *messages: WireMessage) -> None:
            self.sent += messages

        def close(self, reason: str) -> None: ...

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    port, far, clock = Port(), playing("first", 100), Clock()
    player = Player(
        far.playout,
        VonageLeg(8000),
        port,
        clock=clock,  # type: ignore[arg-type]  # only `monotonic` is used here
        on_notice=lambda _: None,
        on_played=lambda *_: None,
    )
    far.run(0.2)
    far.playout.confirm(far.marks[-1], far.now)  # this network does tell
    far.tick()
    clock.now = far.now
    player.clear()
    assert port.sent == []  # nothing sounds: nothing to clear

    far.playout.begin(2)
    far.playout.push_text(2, plain("second"))
    far.playout.push_audio(2, audio_of(100))
    far.playout.finish(2)
    far.run(0.3)
    clock.now = far.now
    assert far.playout.ahead_s(far.now) == 0
    player.clear()
    assert port.sent == ['{"action":"clear"}']


def test_only_audio_that_was_waited_for_needs_a_look() -> None:
    playout = Playout(LINEAR, lead_ms=200)
    playout.begin(1)
    assert not playout.push_audio(1, bytes(100)), "not a whole frame yet"
    assert playout.push_audio(1, audio_of(100))
    assert not playout.push_audio(1, audio_of(100)), "the next wake comes in time for it"
    while playout.tick(0.0):
        pass
    playout.tick(1.0)
    playout.tick(1.0)
    assert playout.push_audio(1, audio_of(100)), "dry"
    assert not playout.push_audio(2, audio_of(100)), "nobody speaks it"


async def test_a_fault_in_a_pass_is_raised_by_run_and_a_kick_afterwards_does_nothing() -> None:
    class BrokenPort:
        def send(self, *messages: WireMessage) -> None:
            raise RuntimeError("a defect")

        def close(self, reason: str) -> None: ...

    playout = Playout(LINEAR, lead_ms=200)
    player = Player(
        playout,
        VonageLeg(8000),
        BrokenPort(),
        clock=SystemClock(),
        on_notice=lambda _: None,
        on_played=lambda *_: None,
    )
    running = asyncio.create_task(player.run())
    await asyncio.sleep(0)
    playout.begin(1)
    playout.push_audio(1, audio_of(100))
    player.kick()
    with pytest.raises(RuntimeError, match="a defect"):
        async with asyncio.timeout(1):
            await running
    player.kick()
    await asyncio.sleep(0)
