"""Turn detection of the Flux stand-in: frames in, turn messages out. Time is audio time; no socket, no clock.

The confidence that a turn is over grows with the silence s after the last voice as 1 - exp(-s / tau). `tau` is drawn
per pause, so that 0.7 (Flux's default threshold) is reached after the configured end-of-turn delay.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from serve_app.simulators.scripts import ScriptedSegment
from serve_app.simulators.vad import SpeechBegan, SpeechDetector, SpeechPaused

Pcm = npt.NDArray[np.int16]
TurnEventName = Literal["StartOfTurn", "Update", "EagerEndOfTurn", "TurnResumed", "EndOfTurn"]

UPDATE_S = 0.25
# How fast the text of an open segment is revealed: conversational English is about 14 characters a second.
_CHARACTERS_PER_S = 14.0
# What a pause inside a known utterance may reach: the words so far do not sound finished.
_UNFINISHED_CONFIDENCE = 0.65
_SCRIPTED_CONFIDENCE = 0.9
_RECOGNISED_CONFIDENCE = 0.3


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The turn parameters of a stream; `eager` None: no eager events."""

    eot: float = 0.7
    eager: float | None = None
    timeout_s: float = 5.0


@dataclass(slots=True)
class Segment:
    """One stretch of speech; sample positions in the stream. `text` None: nobody told it, nothing recognised it yet."""

    start: int
    end: int | None
    text: str | None
    more_follows: bool
    audio: list[Pcm] = field(default_factory=list)
    recognised: bool = False

    def samples(self) -> Pcm:
        return np.concatenate(self.audio) if self.audio else np.zeros(0, np.int16)


@dataclass(frozen=True, slots=True)
class TurnDraft:
    """A turn message before its text is final: unscripted segments may have to be recognised first."""

    event: TurnEventName
    turn_index: int
    window_start: int
    window_end: int
    segments: tuple[Segment, ...]
    confidence: float
    trigger: str | None = None

    @property
    def needs_text(self) -> bool:
        return self.event in ("EagerEndOfTurn", "EndOfTurn")


class TurnTracker:
    """The turns of one stream, fed 20 ms frames of decoded audio."""

    def __init__(
        self,
        rate_hz: int,
        thresholds: Thresholds,
        *,
        next_segment: Callable[[], ScriptedSegment | None],
        draw_start_delay_s: Callable[[], float],
        draw_eot_delay_s: Callable[[], float],
    ) -> None:
        self.rate_hz = rate_hz
        self.thresholds = thresholds
        self._detector = SpeechDetector(rate_hz)
        self._silence: Pcm = np.zeros(self._detector.frame_samples, np.int16)
        self._next_segment = next_segment
        self._draw_start_delay_s = draw_start_delay_s
        self._draw_eot_delay_s = draw_eot_delay_s
        self._turn_index = 0
        self._segments: list[Segment] = []
        self._window_start = 0
        self._next_update = 0
        self._start_due: int | None = None
        self._eager_sent = False
        self._tau_s = 1.0
        # The voice that made the detector sure lies some frames back.
        self._recent: list[Pcm] = []

    @property
    def position(self) -> int:
        """Samples heard so far."""
        return self._detector.position

    @property
    def frame_samples(self) -> int:
        return self._detector.frame_samples

    @property
    def turn_index(self) -> int:
        return self._turn_index

    @property
    def in_turn(self) -> bool:
        return bool(self._segments)

    def feed_silence(self, frames: int) -> list[TurnDraft]:
        """`feed` with digital silence, without arithmetic; between turns in one step."""
        if not self._segments and self._detector.idle:
            self._detector.skip(frames * self.frame_samples)
            self._recent = []
            return []
        drafts: list[TurnDraft] = []
        for _ in range(frames):
            drafts += self._advance(self._silence, self._detector.advance(self.frame_samples, voiced=False))
        return drafts

    def feed(self, frame: Pcm) -> list[TurnDraft]:
        """One frame; the messages that it causes, in order."""
        return self._advance(frame, self._detector.feed(frame))

    def _advance(self, frame: Pcm, event: SpeechBegan | SpeechPaused | None) -> list[TurnDraft]:
        drafts: list[TurnDraft] = []
        self._recent = [*self._recent[-4:], frame]
        if isinstance(event, SpeechBegan):
            drafts += self._begin(event.at_sample)
        elif self._segments and self._segments[-1].end is None:
            self._segments[-1].audio.append(frame)
        if isinstance(event, SpeechPaused) and self._segments:
            self._segments[-1].end = event.at_sample
            self._tau_s = max(0.05, self._draw_eot_delay_s() / -math.log(1 - 0.7))
        if self._start_due is not None and (self.position >= self._start_due or isinstance(event, SpeechPaused)):
            self._start_due = None
            self._next_update = self.position + int(UPDATE_S * self.rate_hz)
            drafts.append(self._draft("StartOfTurn"))
        if self._segments and self._start_due is None and not isinstance(event, SpeechBegan):
            drafts += self._judge()
        if self._segments and self._start_due is None and self.position >= self._next_update:
            self._next_update += int(UPDATE_S * self.rate_hz)
            drafts.append(self._draft("Update"))
        return drafts

    def force_end(self) -> list[TurnDraft]:
        """ForceEndTurn: the turn in progress is over now."""
        return [self._end("manual")] if self._segments and self._start_due is None else []

    def _begin(self, at_sample: int) -> list[TurnDraft]:
        script = self._next_segment()
        segment = Segment(at_sample, None, script.text if script else None, bool(script and script.more_follows))
        segment.audio = list(self._recent)
        first = not self._segments
        self._segments.append(segment)
        if first:
            self._window_start = at_sample
            self._start_due = at_sample + int(self._draw_start_delay_s() * self.rate_hz)
            return []
        if self._eager_sent:
            self._eager_sent = False
            return [self._draft("TurnResumed")]
        return []

    def _judge(self) -> list[TurnDraft]:
        """What the silence so far means."""
        if self._detector.speaking:
            return []
        limits = self.thresholds
        if self._detector.silence_samples >= limits.timeout_s * self.rate_hz:
            return [self._end("timeout")]
        confidence = self._confidence()
        if confidence >= limits.eot and limits.eot < 1.0:
            return [self._end("model")]
        if limits.eager is not None and confidence >= limits.eager and not self._eager_sent:
            self._eager_sent = True
            return [self._draft("EagerEndOfTurn")]
        return []

    def _confidence(self) -> float:
        if self._detector.speaking:
            return 0.05
        confidence = 1 - math.exp(-self._detector.silence_samples / self.rate_hz / self._tau_s)
        if self._segments[-1].more_follows:
            return min(confidence, _UNFINISHED_CONFIDENCE, self.thresholds.eot - 0.01)
        return min(confidence, 0.99)

    def _end(self, trigger: str) -> TurnDraft:
        if self._segments[-1].end is None:
            self._segments[-1].end = self._detector.last_voice_end
            self._detector.speaking = False
        draft = self._draft("EndOfTurn", trigger)
        self._turn_index += 1
        self._segments = []
        self._eager_sent = False
        return draft

    def _draft(self, event: TurnEventName, trigger: str | None = None) -> TurnDraft:
        return TurnDraft(
            event=event,
            turn_index=self._turn_index,
            window_start=self._window_start,
            window_end=self.position,
            segments=tuple(self._segments),
            confidence=self._confidence(),
            trigger=trigger,
        )


def render(draft: TurnDraft, rate_hz: int) -> dict[str, Any]:
    """The TurnInfo message without its ids. Open segments show the words that the audio so far has room for."""
    words: list[dict[str, Any]] = []
    for segment in draft.segments:
        words += _segment_words(segment, draft.window_end, rate_hz)
    message: dict[str, Any] = {
        "event": draft.event,
        "turn_index": draft.turn_index,
        "audio_window_start": round(draft.window_start / rate_hz, 3),
        "audio_window_end": round(draft.window_end / rate_hz, 3),
        "transcript": " ".join(word["word"] for word in words),
        "words": words,
        "end_of_turn_confidence": round(draft.confidence, 4),
    }
    if draft.trigger is not None:
        message["trigger"] = draft.trigger
    return message


def _segment_words(segment: Segment, position: int, rate_hz: int) -> list[dict[str, Any]]:
    words = re.findall(r"\S+", segment.text or "")
    if not words:
        return []
    lengths = np.array([len(word) + 1 for word in words], dtype=np.float64)
    ends = np.cumsum(lengths)
    if segment.end is None:
        seconds = (position - segment.start) / rate_hz
        shown = max(1, int(np.searchsorted(ends, seconds * _CHARACTERS_PER_S, side="right")))
        duration_s = max(seconds, float(ends[shown - 1]) / _CHARACTERS_PER_S)
        words, scale = words[:shown], min(seconds, duration_s) / float(ends[shown - 1])
    else:
        scale = (segment.end - segment.start) / rate_hz / float(ends[-1])
    base = _RECOGNISED_CONFIDENCE if segment.recognised else _SCRIPTED_CONFIDENCE
    return [
        {
            "word": word,
            # Spread a little, as a recogniser's are, and the same on every run.
            "confidence": round(base + (len(word) % 8) / 100, 2),
            "start": round(segment.start / rate_hz + float(ends[i] - lengths[i]) * scale, 3),
            "end": round(segment.start / rate_hz + float(ends[i]) * scale, 3),
        }
        for i, word in enumerate(words)
    ]
