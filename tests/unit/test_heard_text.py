"""What is claimed as heard against a far end that plays every frame: random speech, delays, marks and interruptions."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.conversation.ledger import TYPICAL_CHARS_PER_S
from tests.unit.far_end_fixtures import (
    FRAME_S,
    Call,
    FarEnd,
    Speech,
    Step,
    chunk_lists,
    far_ends,
    fill_step_lists,
    name_of,
    sparse_chunk_lists,
    speeches,
    step_lists,
    talk,
)


@settings(max_examples=300, deadline=None)
@given(far_ends, speeches(), chunk_lists, step_lists)
def test_what_counts_as_heard_is_what_was_played(
    far: FarEnd, speech: Speech, chunks: list[tuple[int, int]], steps: list[tuple[int, Step]]
) -> None:
    call = Call(far)
    complete = talk(call, speech, chunks, steps)
    _is_told_as_heard(call, speech, complete=complete)


@settings(max_examples=300, deadline=None)
@given(far_ends, speeches(), sparse_chunk_lists, fill_step_lists)
def test_what_was_heard_is_the_same_with_fillers_inside_the_reply(
    far: FarEnd, speech: Speech, chunks: list[tuple[int, int]], steps: list[tuple[int, Step]]
) -> None:
    call = Call(far)
    _is_told_as_heard(call, speech, complete=talk(call, speech, chunks, steps))


def _is_told_as_heard(call: Call, speech: Speech, *, complete: bool) -> None:
    far = call.far
    assert (set(call.spoken), call.playout.idle) == ({1, *call.fillers}, True)
    spoken = call.spoken[1]
    assert spoken.heard_text + spoken.unheard_text == spoken.text == speech.text
    assert spoken.heard_text == speech.text or not spoken.unheard_text[0].strip() or not spoken.heard_text
    truth, claimed = speech.written_words_heard(far.position_s(1)), len(spoken.heard_text.split())
    certain = speech.timed or complete
    # Before all the audio is there, the voice is taken for one of usual speed: as far as that would have come.
    usual = speech.written_words_heard(far.position_s(1) * TYPICAL_CHARS_PER_S / (speech.chars_per_s or 1))
    assert claimed <= (truth if certain else max(truth, usual)) + 1
    # A mark that never comes, where others do, says that the far end may have stalled: less counts as heard then.
    if far.marks != "some":
        assert claimed >= (truth if certain else min(truth, usual)) - 1
    if not spoken.interrupted and far.marks != "some":
        assert truth >= len(speech.text.split()) - 1
    _recorded_where_it_was_heard(call)
    assert call.confirmed.count(1) <= 1


def _recorded_where_it_was_heard(call: Call) -> None:
    heard = [(name_of(played.frame), round(played.began_at - call.far.delay_s, 3)) for played in call.far.played]
    assert [(name_of(played.frame), round(played.at, 3)) for played in call.recorded] == heard


@settings(max_examples=300, deadline=None)
@given(
    far_ends,
    speeches(),
    chunk_lists,
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 1500)), min_size=1, max_size=4),
)
def test_after_a_hold_speech_goes_on_from_the_word_where_it_stopped(
    far: FarEnd, speech: Speech, chunks: list[tuple[int, int]], holds: list[tuple[int, int]]
) -> None:
    steps: list[tuple[int, Step]] = [step for before, lasts in holds for step in ((before, "hold"), (lasts, "release"))]
    call = Call(far)
    talk(call, speech, chunks, steps)
    played = far.of(1)
    assert {name_of(p.frame)[1] for p in played} == set(range(speech.frames)), "nothing is lost"
    assert call.spoken[1].heard_text == speech.text
    assert not call.spoken[1].interrupted
    furthest_s = 0.0
    for cut, following in itertools.pairwise(played):
        stopped_s = name_of(cut.frame)[1] * FRAME_S + cut.ended_at - cut.began_at
        goes_on_s = name_of(following.frame)[1] * FRAME_S
        # A frame on a word's border has the end of the word before it too, which was heard already.
        furthest_s = max(furthest_s, stopped_s)
        whole_frame = cut.ended_at - cut.began_at > FRAME_S - 1e-4
        assert goes_on_s <= stopped_s + 1e-4, "no part of a word is skipped"
        if whole_frame and goes_on_s > stopped_s - 1e-4:
            continue
        if not speech.timed:
            assert stopped_s - goes_on_s < FRAME_S + 1e-4, "at most the frame that was cut is heard again"
            continue
        cut_word = next((w for w in speech.words if (w.start_s or 0) < furthest_s < (w.end_s or 0)), None)
        if cut_word is not None:
            assert goes_on_s <= (cut_word.start_s or 0) + 1e-4, "the word that was cut is said again from its start"
        heard = speech.written_words_heard(furthest_s)
        heard_words = [w for w, owner in zip(speech.words, speech.owners, strict=True) if owner < heard]
        heard_to_s = (heard_words[-1].end_s or 0.0) if heard_words else 0.0
        # A mark that never comes, where others do, says that the far end may have stalled: rather twice than never.
        if far.marks != "some":
            assert goes_on_s > heard_to_s - FRAME_S - 1e-4, "no word that was heard is said again"
    _recorded_where_it_was_heard(call)
