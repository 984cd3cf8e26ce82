"""Text as written against words as spoken: what was heard is told in the written ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.conversation.ledger import SpokenText
from serve_app.conversation.speakable import Speakable, speakable
from serve_app.providers.base import Word


def text_of(*pieces: str) -> SpokenText:
    text = SpokenText()
    for piece in pieces:
        text.append(speakable(piece, "en"))
    return text


def timed(words: list[str], word_s: float = 0.1) -> tuple[Word, ...]:
    return tuple(Word(word, i * word_s, (i + 1) * word_s) for i, word in enumerate(words))


def heard(text: SpokenText, played_s: float, audio_s: float = 100.0) -> str:
    return text.text[: text.heard_chars(played_s, audio_s, complete=False)]


def test_a_number_counts_as_heard_when_its_last_word_was() -> None:
    text = text_of("You owe $21.50 now.")
    text.add_timings(timed(["You", "owe", "twenty-one", "dollars", "and", "fifty", "cents", "now."]))
    assert heard(text, 0.2) == "You owe"
    assert heard(text, 0.6) == "You owe"
    assert heard(text, 0.7) == "You owe $21.50"
    assert heard(text, 0.8) == "You owe $21.50 now."


@pytest.mark.parametrize(
    "words",
    [
        ["I", "owe", "twenty", "one", "dollars.", "Not", "Ann's", "."],  # a hyphen taken apart, a full stop by itself
        ["i", "OWE", "twenty-one", "dollars", "Not", "Ann’s"],
        ["I", "owe", "twentyone", "dollars", "Not", "Ann", "s"],
    ],
)
def test_synthesizers_may_split_and_write_words_as_they_like(words: list[str]) -> None:
    text = text_of("I owe $21. ", "Not Ann's.")
    text.add_timings(timed(words))
    not_at = words.index("Not") + 1
    assert heard(text, not_at * 0.1 - 0.1) == "I owe $21."
    assert heard(text, not_at * 0.1) == "I owe $21. Not"
    assert heard(text, len(words) * 0.1) == "I owe $21. Not Ann's."


def test_another_voice_takes_over_where_the_audio_ends_whatever_the_first_one_told_of_its_plans() -> None:
    text = text_of("One two three four.")
    text.add_timings(timed(["One", "two", "three", "four."]))
    # "Two" was cut: the second voice says it again, and speaks at half the speed.
    text.forget_timings_after(0.15)
    assert heard(text, 0.15, audio_s=0.15) == "One"
    text.add_timings(tuple(Word(w, 0.15 + i * 0.2, 0.35 + i * 0.2) for i, w in enumerate(["two", "three", "four."])))
    assert heard(text, 0.34) == "One"
    assert heard(text, 0.35) == "One two"
    assert heard(text, 0.54) == "One two"
    assert heard(text, 0.75) == "One two three four."
    text.forget_timings_after(0.0)
    text.add_timings(timed(["One"]))
    assert heard(text, 0.1) == "One"


def test_a_word_that_was_said_differently_is_stepped_over_and_drags_nothing_along() -> None:
    text = text_of("We met the CEO and the staff of the firm.")
    text.add_timings(timed(["We", "met", "the", "boss", "and", "the"]))
    assert heard(text, 0.4) == "We met the"
    assert heard(text, 0.5) == "We met the CEO and"
    assert heard(text, 0.6) == "We met the CEO and the"


def test_what_is_silent_goes_with_the_word_before_it() -> None:
    text = text_of("Great 👍 — see **you**")
    assert text.spoken.split() == ["Great", "—", "see", "you"]
    text.add_timings(timed(["Great", "see", "you"]))
    assert heard(text, 0.1) == "Great 👍 —"
    assert heard(text, 0.3) == "Great 👍 — see **you**"


def test_a_piece_without_any_sound_is_heard_with_the_one_before() -> None:
    text = text_of("Hello there. ", "😀 ", "Bye.")
    text.add_timings(timed(["Hello", "there", "Bye"]))
    assert heard(text, 0.1) == "Hello"
    assert heard(text, 0.2) == "Hello there. 😀"


def test_a_failed_utterance_claims_no_word_for_the_silence_at_its_end() -> None:
    text = text_of("one two three four five six.")
    text.add_timings(timed(["one", "two"]))
    assert text.text[: text.heard_chars(2.0, 2.0, complete=True, failed=True)] == "one two"


def test_where_to_go_on_is_the_beginning_of_the_word_that_was_cut() -> None:
    text = text_of("one two three")
    text.add_timings((Word("one", 0.1, 0.3), Word("two", 0.5, 0.8), Word("three", None, 1.1)))
    assert text.resume_s(0.2) == pytest.approx(0.1)
    assert text.resume_s(0.4) == pytest.approx(0.4), "nothing was cut"
    assert text.resume_s(0.7) == pytest.approx(0.5)
    assert text.resume_s(0.9) == pytest.approx(0.8), "its beginning was not told: where the one before ended"
    assert text.resume_s(2.0) == pytest.approx(2.0)


def test_when_a_piece_was_spoken_is_known_by_its_last_word() -> None:
    text = text_of("It is $2.10. ", "Fine.")
    text.add_timings(timed(["It", "is", "two", "dollars", "and", "ten", "cents"]))
    assert text.piece_end_s(0) == pytest.approx(0.7)
    assert text.piece_end_s(1) is None


@given(
    st.lists(st.sampled_from(["hello,", "it", "$3.10", "5%", "twenty-one", "**no**", "😀", "—", "ok."]), max_size=12),
    st.integers(0, 400),
)
def test_a_cut_lies_between_two_words_of_the_text_and_never_goes_back(tokens: list[str], position: int) -> None:
    piece = speakable(" ".join(tokens), "en")
    ends = [piece.written_end(said) for said in range(len(piece.spoken) + 1)]
    assert ends == sorted(ends)
    assert all(end == 0 or (piece.text[end - 1].strip() and not piece.text[end : end + 1].strip()) for end in ends)
    if any(character.isalnum() for character in piece.spoken):
        assert ends[-1] == len(piece.text)
    assert piece.written_end(position) <= len(piece.text)


def test_a_text_that_is_said_as_written_is_cut_where_it_is_said() -> None:
    piece = Speakable("One two, three.", "One two, three.")
    assert [piece.written_end(n) for n in (0, 2, 3, 6, 7, 8, 13, 14)] == [0, 0, 3, 3, 8, 8, 8, 15]
