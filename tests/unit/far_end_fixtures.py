"""A far end that plays every frame, and a synthesizer whose words are known to the millisecond."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from hypothesis import strategies as st

from serve_app.conversation.far_marks import Mark
from serve_app.conversation.ledger import Spoken
from serve_app.conversation.playout import PlayedFrame, Playout
from serve_app.conversation.speakable import speakable
from serve_app.providers.base import AudioFormat, Word

LINEAR = AudioFormat("linear16", 8000)
FRAME_S = 0.02
FRAME_BYTES = 320
# One written word each, said in one or more, and in the same way wherever they stand.
TOKENS = ("hello", "a", "appointment", "we", "tomorrow,", "42", "$12.50", "$1,250.75", "7%", "350")
LATE_S = (0.0, 0.8, 0.3)
Marks = Literal["none", "all", "late", "some"]
"""`late`: up to 0.8 s after home takes it for passed, which is not long enough to doubt the far end.

`some`: every other one is lost.
"""
Step = Literal["hold", "release", "interrupt", "fill"]
FILLER_FRAMES = 20


def frame_of(generation: int, index: int) -> bytes:
    return generation.to_bytes(2, "little") + index.to_bytes(4, "little") + bytes(FRAME_BYTES - 6)


def name_of(frame: bytes) -> tuple[int, int]:
    return int.from_bytes(frame[:2], "little"), int.from_bytes(frame[2:6], "little")


@dataclass(frozen=True)
class Speech:
    """What a synthesizer makes of a text, known to the millisecond."""

    pieces: tuple[str, ...]
    words: tuple[Word, ...]
    """As spoken, whether or not the synthesizer tells them."""
    owners: tuple[int, ...]
    """For each spoken word the written word that it belongs to."""
    frames: int
    timed: bool
    chars_per_s: float = 0.0
    """Where no timings tell: of the text as spoken."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def written_words_heard(self, position_s: float) -> int:
        """Those whose last spoken word was over."""
        unheard = [self.owners[i] for i, word in enumerate(self.words) if (word.end_s or 0) > position_s + 1e-6]
        return unheard[0] if unheard else len(self.text.split())


@st.composite
def speeches(draw: st.DrawFn) -> Speech:
    sentences = draw(st.lists(st.lists(st.sampled_from(TOKENS), min_size=1, max_size=8), min_size=1, max_size=3))
    pieces = tuple(" ".join(tokens) + "." + " " * (i + 1 < len(sentences)) for i, tokens in enumerate(sentences))
    tokens = enumerate("".join(pieces).split())
    said = [(owner, word) for owner, token in tokens for word in speakable(token, "en").spoken.split()]
    timed = draw(st.booleans())
    words, now, chars_per_s = [], 0.0, 0.0
    if timed:
        now = draw(st.integers(0, 15)) / 100
        for _, word in said:
            end = now + draw(st.integers(8, 50)) / 100
            words.append(Word(word, now, end))
            now = end + draw(st.sampled_from([0.0, 0.0, 0.05, 0.2]))
    else:
        # Without timings the truth can be known only where each letter lasts equally long.
        chars_per_s = draw(st.integers(10, 20))
        letter_s = 1 / chars_per_s
        for _, word in said:
            words.append(Word(word, now, now + len(word) * letter_s))
            now += (len(word) + 1) * letter_s
    frames = -int(-now // FRAME_S)
    return Speech(pieces, tuple(words), tuple(owner for owner, _ in said), frames, timed, chars_per_s)


@dataclass
class Played:
    frame: bytes
    began_at: float
    ended_at: float


@dataclass
class FarEnd:
    """The network: plays what arrives, back to back, and says when a mark is passed. Its times are its own."""

    delay_s: float
    marks: Marks
    played: list[Played] = field(default_factory=list)
    answers: list[tuple[float, str]] = field(default_factory=list)
    """Marks passed, and when that is known at home."""
    free_at: float = 0.0
    marks_seen: int = 0

    def receive(self, item: bytes | Mark, now: float) -> None:
        at = max(now + self.delay_s, self.free_at)
        if isinstance(item, bytes):
            self.free_at = at + FRAME_S
            self.played.append(Played(item, at, self.free_at))
            return
        self.marks_seen += 1
        if self.marks in ("all", "late") or (self.marks == "some" and self.marks_seen % 2):
            late_s = LATE_S[self.marks_seen % 3] if self.marks == "late" else 0.0
            known_at = max(at + self.delay_s, at - self.delay_s + late_s)
            heapq.heappush(self.answers, (known_at, item.id))

    def clear(self, now: float) -> None:
        at = now + self.delay_s
        self.played = [played for played in self.played if played.began_at < at]
        if self.played:
            self.played[-1].ended_at = min(self.played[-1].ended_at, at)
        self.answers = [answer for answer in self.answers if answer[0] <= at + self.delay_s]
        heapq.heapify(self.answers)
        self.free_at = min(self.free_at, at)

    def of(self, generation: int) -> list[Played]:
        return [played for played in self.played if name_of(played.frame)[0] == generation]

    def position_s(self, generation: int) -> float:
        """Where in the utterance's audio it stopped."""
        played = self.of(generation)
        if not played:
            return 0.0
        return name_of(played[-1].frame)[1] * FRAME_S + played[-1].ended_at - played[-1].began_at


@dataclass
class Call:
    """A playout with a far end, on a clock of its own."""

    far: FarEnd
    playout: Playout = field(default_factory=lambda: Playout(LINEAR, lead_ms=300))
    now: float = 0.0
    held: bool = False
    talking: int = 0
    """The generation that talks."""
    fillers: list[int] = field(default_factory=list)
    """Those that were played inside it or ahead of it."""
    recorded: list[PlayedFrame] = field(default_factory=list)
    spoken: dict[int, Spoken] = field(default_factory=dict)
    confirmed: list[int] = field(default_factory=list)
    on_playing: Callable[[int], None] | None = None
    on_spoken: Callable[[Spoken], None] | None = None

    def run_until(self, until: float) -> None:
        while True:
            self.tick()
            wake = self.playout.next_wake(self.now)
            answer = self.far.answers[0][0] if self.far.answers else float("inf")
            at = min(self.now + wake if wake is not None else float("inf"), max(answer, self.now))
            if at > until:
                break
            self.now = at
            if answer <= at:
                self.playout.confirm(heapq.heappop(self.far.answers)[1], self.now)
        self.now = max(self.now, until)
        self.tick()

    def tick(self) -> None:
        sent = self.playout.tick(self.now)
        assert not (self.held and sent), "nothing is sent until the release"
        for item in sent:
            self.far.receive(item, self.now)
        self.collect([])

    def collect(self, spoken: list[Spoken]) -> None:
        self.recorded += self.playout.take_played()
        notices = self.playout.take_notices()
        self.confirmed += [notice.generation for notice in notices if notice.kind == "confirmed"]
        for notice in notices:
            if notice.kind == "playing" and self.on_playing is not None:
                self.on_playing(notice.generation)
            if notice.spoken is not None:
                self.account(notice.spoken)
        for ended in spoken:
            self.account(ended)

    def account(self, spoken: Spoken) -> None:
        assert spoken.generation not in self.spoken, "accounted for once"
        self.spoken[spoken.generation] = spoken
        if self.on_spoken is not None:
            self.on_spoken(spoken)

    def do(self, step: Step) -> None:
        if step == "hold" and not self.held:
            self.held = True
            self.playout.hold(self.now)
            self.far.clear(self.now)
        elif step == "release" and self.held:
            self.held = False
            self.playout.release(self.now)
        elif step == "fill":
            self.fill()
        elif step == "interrupt":
            self.held = False
            spoken = self.playout.interrupt(self.now)
            self.far.clear(self.now)
            self.collect(spoken)

    def fill(self) -> None:
        """A filler, whenever the playout takes one."""
        generation = 1000 + len(self.fillers)
        if not self.playout.begin(generation, before=self.talking):
            return
        self.fillers.append(generation)
        self.playout.push_text(generation, speakable("One moment.", "en"))
        self.playout.push_audio(generation, b"".join(frame_of(generation, index) for index in range(FILLER_FRAMES)))
        self.playout.finish(generation)

    def push(self, generation: int, speech: Speech, chunk: tuple[int, int], audio: bytes) -> None:
        start, end = chunk
        if speech.timed:
            after, upto = start * FRAME_S / FRAME_BYTES, end * FRAME_S / FRAME_BYTES
            self.playout.push_words(generation, tuple(w for w in speech.words if after <= (w.start_s or 0) < upto))
        self.playout.push_audio(generation, audio[start:end])
        if end == len(audio):
            self.playout.finish(generation)


def talk(
    call: Call, speech: Speech, chunks: list[tuple[int, int]], steps: list[tuple[int, Step]], *, generation: int = 1
) -> bool:
    """One utterance under the steps, to its end. Whether all its audio was there when it ended."""
    audio = b"".join(frame_of(generation, index) for index in range(speech.frames))
    call.playout.begin(generation)
    call.talking = generation
    for piece in speech.pieces:
        call.playout.push_text(generation, speakable(piece, "en"))
    events: list[tuple[float, Step | tuple[int, int]]] = []
    at = start = 0
    for size, wait_ms in itertools.chain(chunks, itertools.repeat((4000, 100))):
        at, end = at + wait_ms, min(start + size, len(audio))
        events.append((call.now + at / 1000, (start, end)))
        if end == len(audio):
            break
        start = end
    at_s = call.now
    for number, (wait_ms, step) in enumerate(steps):
        # No step at the very moment when a frame begins: which came first would be a matter of rounding.
        at_s += (wait_ms + 0.31 * (number % 3 + 1)) / 1000
        events.append((at_s, step))
    complete = False
    for when, event in sorted(events, key=lambda event: event[0]):
        call.run_until(when)
        if generation in call.spoken:
            return complete
        if isinstance(event, tuple):
            call.push(generation, speech, event, audio)
            complete = event[1] == len(audio)
        else:
            call.do(event)
    call.do("release")
    call.run_until(call.now + speech.frames * FRAME_S + 5)
    return complete


STEPS: st.SearchStrategy[Step] = st.sampled_from(["hold", "release", "hold", "release", "interrupt"])
far_ends = st.builds(FarEnd, st.sampled_from([0.0, 0.03, 0.25]), st.sampled_from(["none", "all", "late", "some"]))
chunk_lists = st.lists(st.tuples(st.integers(1, 9000), st.integers(0, 250)), max_size=12)
FILLS: st.SearchStrategy[Step] = st.sampled_from(["fill", "fill", "hold", "release", "interrupt"])
sparse_chunk_lists = st.lists(st.tuples(st.integers(1, 6000), st.integers(0, 1500)), min_size=1, max_size=8)
"""Audio that comes too late to be played without a pause."""
fill_step_lists = st.lists(st.tuples(st.integers(0, 1200), FILLS), max_size=10)
step_lists = st.lists(st.tuples(st.integers(0, 2500), STEPS), max_size=6)
