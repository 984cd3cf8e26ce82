"""Which frames of an utterance make the transcriber's messages due: read from the transcriber's own turn tracker.

The tracker works in audio time and looks at energy, so the answer depends on the prepared audio alone.
"""

from __future__ import annotations

import numpy as np

from load_tests.callbench.records import Due
from load_tests.callbench.scenario import ALL_TURNS, END_OF_TURN_MS, SAMPLE_RATE_HZ, START_OF_TURN_MS
from serve_app.simulators.flux_turns import Thresholds, TurnTracker
from serve_app.simulators.leg import Utterance
from serve_app.simulators.speech import speak
from serve_app.simulators.vad import SPEECH_RMS

FRAME_S = 0.02
FRAME_BYTES = SAMPLE_RATE_HZ // 50 * 2
LEAD_FRAMES = 50
TAIL_FRAMES = 150


def scenario_due() -> dict[str, Due]:
    """Of each text of the scenario. Raises ValueError for a scenario that cannot be measured exactly.

    An answer is dated by its first frame that sounds, so replies must sound from their first frame on.
    """
    for turn in ALL_TURNS:
        pcm = _spoken(turn.reply, "agent-en")
        first = np.frombuffer(pcm[:FRAME_BYTES], "<i2").astype(np.float64)
        # With a margin: a leg tells sound by a sample of the frame.
        if np.sqrt(np.mean(np.square(first))) < 2 * SPEECH_RMS:
            raise ValueError(f"the reply {turn.reply!r} begins with silence")
    return {turn.text: due_of(turn.text, _spoken(turn.text, "callee-en")) for turn in ALL_TURNS}


def due_of(text: str, pcm: bytes) -> Due:
    """Of 16 kHz linear audio. Raises ValueError for audio that is not one turn."""
    utterance = Utterance.of(pcm, text, FRAME_BYTES)
    tracker = TurnTracker(
        SAMPLE_RATE_HZ,
        Thresholds(),
        next_segment=lambda: None,
        draw_start_delay_s=lambda: START_OF_TURN_MS / 1000,
        draw_eot_delay_s=lambda: END_OF_TURN_MS / 1000,
    )
    stream = np.frombuffer(bytes(LEAD_FRAMES * FRAME_BYTES) + utterance.pcm + bytes(TAIL_FRAMES * FRAME_BYTES), "<i2")
    found: dict[str, list[int]] = {"StartOfTurn": [], "EndOfTurn": []}
    for index, frame in enumerate(stream.reshape(-1, FRAME_BYTES // 2)):
        for draft in tracker.feed(frame):
            if draft.event in found:
                found[draft.event].append(index - LEAD_FRAMES)
    starts, ends = found.values()
    if len(starts) != 1 or len(ends) != 1:
        raise ValueError(f"the transcriber finds {len(ends)} turns in {text!r}; a scenario needs texts of one turn")
    return Due(
        start_after_began_s=round(starts[0] * FRAME_S, 6),
        end_after_sound_s=round((ends[0] - (utterance.sounding_frames - 1)) * FRAME_S, 6),
    )


def _spoken(text: str, voice: str) -> bytes:
    return speak(text, voice=voice, rate_hz=SAMPLE_RATE_HZ).pcm.tobytes()
