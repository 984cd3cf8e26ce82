"""Sentences in every language of the agent: abbreviations, numbers, addresses and links are never cut in two."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.conversation.phrases import Language
from serve_app.conversation.sentences import SentenceSplitter

LANGUAGES: tuple[Language, ...] = ("en", "es", "fr")


def split(text: str, language: Language, size: int = 1) -> list[str]:
    splitter = SentenceSplitter(language)
    pieces = [p for i in range(0, len(text), size) for p in splitter.feed(text[i : i + size])]
    return pieces + splitter.flush()


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("es", "La Dra. Ruiz le espera. ¿Viene?", ["La Dra. Ruiz le espera. ", "¿Viene?"]),
        ("es", "Sr. Pérez, gracias. ¡Hasta luego!", ["Sr. Pérez, gracias. ", "¡Hasta luego!"]),
        ("es", "Pregunte a Ud. mismo. Vale.", ["Pregunte a Ud. mismo. ", "Vale."]),
        ("es", "Son 1.250,50 euros. Gracias.", ["Son 1.250,50 euros. ", "Gracias."]),
        ("fr", "Mme. Petit et M. Martin sont là. Entrez.", ["Mme. Petit et M. Martin sont là. ", "Entrez."]),
        ("fr", "Le Dr. Blanc arrive à 14h30. Merci !", ["Le Dr. Blanc arrive à 14h30. ", "Merci !"]),
        ("fr", "Cela fait 12,50 euros. D'accord ?", ["Cela fait 12,50 euros. ", "D'accord ?"]),
        ("en", "What?! Really. Yes.", ["What?! ", "Really. ", "Yes."]),
        ("en", "Mr. and Mrs. Hill are in. Go.", ["Mr. and Mrs. Hill are in. ", "Go."]),
    ],
)
def test_abbreviations_do_not_end_sentences(language: Language, text: str, expected: list[str], size: int) -> None:
    assert split(text, language, size) == expected


WHOLE = (
    "3.50",
    "1,250.75",
    "10.30",
    "192.168.0.1",
    "https://example.com/a.b?c=d.e",
    "jane.doe@example.co.uk",
    "+1 (555) 010-0199",
    "555-010-0199",
    "[our site, with help](https://example.com/x.y)",
)
PLAIN = ("we", "call", "you", "Tuesday", "fine,", "then")


@given(
    st.sampled_from(LANGUAGES),
    st.lists(st.one_of(st.sampled_from(WHOLE), st.sampled_from(PLAIN)), min_size=1, max_size=14),
    st.sampled_from([".", "!", "?", "", ". Next one."]),
    st.integers(1, 40),
)
def test_no_number_address_link_or_telephone_number_is_cut(
    language: Language, tokens: list[str], end: str, size: int
) -> None:
    text = " ".join(tokens) + end
    pieces = split(text, language, size)
    assert "".join(pieces) == text
    position, cuts = 0, []
    for piece in pieces[:-1]:
        position += len(piece)
        cuts.append(position)
    for whole in WHOLE:
        for match in re.finditer(re.escape(whole), text):
            assert not [cut for cut in cuts if match.start() < cut < match.end()], (whole, pieces)


@given(
    st.sampled_from(LANGUAGES),
    st.text(alphabet="aÉñ1 .,;:!?¿¡…\n\"'«»()[]-/@$€%*_#", max_size=160),
    st.integers(1, 12),
)
def test_nothing_is_added_or_lost_and_no_piece_is_silent(language: Language, text: str, size: int) -> None:
    pieces = split(text, language, size)
    joined = "".join(pieces)
    assert text.startswith(joined)
    assert not text[len(joined) :].strip()
    assert all(piece.strip() for piece in pieces)
