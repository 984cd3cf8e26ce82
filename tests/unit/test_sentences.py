"""Speech starts at the first clause, and no abbreviation or decimal cuts a sentence in two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.conversation.sentences import SentenceSplitter


def split(text: str, size: int = 1, **kwargs: int) -> list[str]:
    splitter = SentenceSplitter(**kwargs)
    pieces = [p for i in range(0, len(text), size) for p in splitter.feed(text[i : i + size])]
    return pieces + splitter.flush()


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes. It works.", ["Yes. ", "It works."]),
        ("Dr. Patel sees you at 10.30 a.m. on Tuesday.", ["Dr. Patel sees you at 10.30 a.m. on Tuesday."]),
        ("It costs 3.50 dollars. Fine?", ["It costs 3.50 dollars. ", "Fine?"]),
        ("We open at 8 a.m. Please ring.", ["We open at 8 a.m. ", "Please ring."]),
        ("Room No. 5 is free. Come in!", ["Room No. 5 is free. ", "Come in!"]),
        ("Well... maybe. Who knows", ["Well... maybe. ", "Who knows"]),
        ("Well... Maybe… yes.", ["Well... ", "Maybe… yes."]),
        ('"Really?" she asked. "Yes!" It is.', ['"Really?" she asked. ', '"Yes!" ', "It is."]),
        ('She said "No." Then she left.', ['She said "No." ', "Then she left."]),
        ("J. R. Smith is in. Wait.", ["J. R. Smith is in. ", "Wait."]),
        ("First line\nSecond line", ["First line\n", "Second line"]),
        ("So do I. Thanks.", ["So do I. ", "Thanks."]),
        ("See example.com for more. Bye.", ["See example.com for more. ", "Bye."]),
    ],
)
def test_sentences(text: str, expected: list[str], size: int) -> None:
    assert split(text, size) == expected


def test_the_first_piece_may_be_a_clause_and_no_later_one() -> None:
    text = "The appointment is on Tuesday at ten, with Doctor Patel, as you asked. It takes an hour, more or less, sir."
    assert split(text) == [
        "The appointment is on Tuesday at ten, ",
        "with Doctor Patel, as you asked. ",
        "It takes an hour, more or less, sir.",
    ]


def test_a_short_first_clause_is_not_cut() -> None:
    assert split("Yes, of course. Thanks.") == ["Yes, of course. ", "Thanks."]


def test_text_without_end_marks_is_cut_at_a_space() -> None:
    pieces = split("word " * 100, longest_chars=60)
    assert len(pieces) >= 8
    assert all(len(piece) <= 60 and piece.endswith(" ") for piece in pieces)


@given(st.text(alphabet="aB1 .,!?\n\"'…;", max_size=120), st.integers(1, 9))
def test_nothing_is_added_or_lost(text: str, size: int) -> None:
    joined = "".join(split(text, size, longest_chars=40))
    assert text.startswith(joined)
    assert not text[len(joined) :].strip()


@given(st.text(alphabet="aB1 .,!?\n", max_size=80))
def test_no_piece_is_silent(text: str) -> None:
    assert all(piece.strip() for piece in split(text))
