"""What a model writes becomes what a person would say, in three languages; plain text is left alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.conversation.phrases import Language
from serve_app.conversation.speakable import speakable
from serve_app.conversation.speakable_words import wordings_of

LANGUAGES: tuple[Language, ...] = ("en", "es", "fr")


def said(text: str, language: Language = "en") -> str:
    return " ".join(speakable(text, language).spoken.split())


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        # numbers
        ("5 and 1,250 and 3.14", "five and one thousand two hundred fifty and three point one four"),
        ("-5 or 0.05", "minus five or zero point zero five"),
        ("the 1st, 22nd and 103rd", "the first, twenty-second and one hundred third"),
        ("10% to 12.5%", "ten percent to twelve point five percent"),
        ("10-15%, 2-3 days", "ten to fifteen percent, two to three days"),
        (
            "in 1999, in 1850, 1850 people",
            "in nineteen ninety-nine, in eighteen fifty, one thousand eight hundred fifty people",
        ),
        ("the 1990s and the 90s", "the nineteen nineties and the nineties"),
        (
            "1/2 cup, 2 1/2 hours, 4/5 stars, 24/7",
            "one half cup, two and one half hours, four out of five stars, twenty-four seven",
        ),
        # money
        ("$5, $1, $12.50, $0.05", "five dollars, one dollar, twelve dollars and fifty cents, five cents"),
        ("$1,250.75", "one thousand two hundred fifty dollars and seventy-five cents"),
        ("$10-15 or £3.01", "ten to fifteen dollars or three pounds and one penny"),
        ("EUR 50, 50 €, €2.5M, $10k", "fifty euros, fifty euros, two point five million euros, ten thousand dollars"),
        ("$20/hour", "twenty dollars per hour"),
        # times and dates
        ("10:30, 2pm, 10:00, 9:05 a.m.", "ten thirty, two P M, ten o'clock, nine oh five A M."),
        ("14:30", "two thirty P M"),
        ("9am-5pm, 2-3pm", "nine A M to five P M, two to three P M"),
        ("at 5 p.m. Please come", "at five P M. Please come"),
        ("March 14, 2025", "March fourteenth, twenty twenty-five"),
        ("on Jan. 5 or 2 May", "on January fifth or the second of May"),
        ("2025-03-14, 3/14/2025", "March fourteenth, twenty twenty-five, March fourteenth, twenty twenty-five"),
        # phone numbers, codes
        ("(202) 555-0123", "two zero two, five five five, zero one two three"),
        ("2025550123", "two zero two, five five five, zero one two three"),
        ("+1 202 555 0123.", "plus one, two zero two, five five five, zero one two three."),
        ("555-0123", "five five five, zero one two three"),
        ("call 911", "call nine one one"),
        ("AB-1234, B2B, 007, 3D", "AB one two three four, B two B, zero zero seven, three D"),
        ("12-34-56, v2.0.1", "twelve, thirty-four, fifty-six, two dot zero dot one"),
        # units
        ("5 km, 1 kg, 20°C, 60 mph", "five kilometers, one kilogram, twenty degrees Celsius, sixty miles per hour"),
        # addresses
        ("ann.lee@example.co.uk", "ann dot lee at example dot co dot uk"),
        ("https://www.example.com/faq?x=1.", "example dot com slash faq."),
        ("Go to example.com!", "Go to example dot com!"),
        # abbreviations
        ("Dr. Lee, approx. 5 min.", "Doctor Lee, approximately five minutes."),
        ("on Main St. near St. Mary", "on Main Street near Saint Mary"),
        ("No. 5. No. Not that.", "number five. No. Not that."),
        ("fruit, e.g. apples, etc.", "fruit, for example apples, et cetera."),
        # signs
        ("Q&A, #1, he/she, and/or, a @ b", "Q and A, number one, he or she, and or, a at b"),
        ("2 + 2 = 4, 5 * 3, ~10", "two plus two equals four, five times three, about ten"),
    ],
)
def test_english(text: str, spoken: str) -> None:
    assert said(text) == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("1.250,50 €", "mil doscientos cincuenta euros con cincuenta céntimos"),
        ("$21 o £21", "veintiún dólares o veintiuna libras"),
        ("1.000.000 €", "un millón de euros"),
        ("3,14 y 0,05", "tres coma catorce y cero coma cero cinco"),
        (
            "1 persona, 21 días, 200 personas, 31 de mayo",
            "una persona, veintiún días, doscientas personas, treinta y uno de mayo",
        ),
        ("el 1er piso, el 2º, la 3ª", "el primer piso, el segundo, la tercera"),
        ("1 de mayo, 14/03/2025", "primero de mayo, catorce de marzo de dos mil veinticinco"),
        ("a las 10:30, a la 1:15, 14:30", "a las diez y media, a la una y cuarto, catorce treinta"),
        ("5 p. m. y 8 p.m.", "cinco de la tarde y ocho de la noche."),
        ("10-12 km/h, 12,5 %", "diez a doce kilómetros por hora, doce coma cinco por ciento"),
        ("612 345 678", "seis uno dos, tres cuatro cinco, seis siete ocho"),
        ("El Sr. Pérez, Av. Libertad", "El señor Pérez, avenida Libertad"),
        ("ana@ejemplo.es", "ana arroba ejemplo punto es"),
    ],
)
def test_spanish(text: str, spoken: str) -> None:
    assert said(text, "es") == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("1 250,50 €", "mille deux cent cinquante euros et cinquante centimes"),
        ("1 000 000 €, 1,5 €", "un million d'euros, un euro et cinquante centimes"),
        ("3,14", "trois virgule quatorze"),
        ("1 personne, 21 personnes, 21 jours", "une personne, vingt-et-une personnes, vingt-et-un jours"),
        ("le 1er, la 1re, le 2e", "le premier, la première, le deuxième"),
        ("1 mai, 14/03/2025", "premier mai, quatorze mars deux mille vingt-cinq"),
        ("14h30, 1h, 10:00, 9h-17h", "quatorze heures trente, une heure, dix heures, neuf heures à dix-sept heures"),
        ("10–12 km/h, 50 %", "dix à douze kilomètres à l'heure, cinquante pour cent"),
        ("01 42 68 53 00", "zéro un, quarante-deux, soixante-huit, cinquante-trois, zéro zéro"),
        ("+33 6 12 34 56 78", "plus trente-trois, six, douze, trente-quatre, cinquante-six, soixante-dix-huit"),
        ("M. Dupont, 5 av. Foch", "monsieur Dupont, cinq avenue Foch"),
    ],
)
def test_french(text: str, spoken: str) -> None:
    assert said(text, "fr") == spoken


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("**Bold**, *it*, __under__, `code`, ~~old~~", "Bold, it, under, code, old"),
        ("See [our page](https://example.com/a_b) now", "See our page now"),
        ("![a map](map.png) and a note[1]", "a map and a note"),
        ("# Title\n- one\n* two\n1. three\n", "Title. one. two. one. three."),
        ("| a | b |\n|---|---|\n| c | d |\n", "a, b. c, d."),
        ("```python\nrun()\n```\n", "run()."),
        ("Great! 😀👍🏽 Yes ✓", "Great! Yes"),
        ("a <b>b</b><br> c", "a b c"),
        ("snake_case", "snake case"),
    ],
)
def test_what_is_for_the_eye_is_not_said(text: str, spoken: str) -> None:
    assert said(text) == spoken


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Certainly, I can help you with that: Tuesday, with Doctor Patel - isn't it?", "en"),
        ("¿Le viene bien el martes? ¡Perfecto! «Sí», dijo.", "es"),
        ("Bien sûr, c'est noté… À bientôt !", "fr"),
    ],
)
def test_plain_text_goes_through_untouched(text: str, language: Language) -> None:
    piece = speakable(text, language)
    assert piece.spoken is text
    assert piece.replaced == ()


def test_a_piece_may_have_nothing_to_say() -> None:
    for text in ("😀 ", "---\n", "**"):
        assert not speakable(text, "en").spoken.strip()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_list_is_of_the_same_shape(language: Language) -> None:
    wordings = wordings_of(language)
    assert len(wordings.months) == 12
    assert all(one and many for one, many in wordings.units.values())
    # YAML reads a bare No or On as a truth value.
    assert all(isinstance(key, str) for table in (wordings.abbreviations, wordings.titles) for key in table)
    assert re.compile(wordings.phone.digits)


FRAGMENTS = st.sampled_from(
    [
        "Hello ",
        "we ",
        "$12.50",
        "1,250",
        " ",
        ".",
        ", ",
        "10:30",
        " p.m. ",
        "**",
        "_",
        "[a](b.com)",
        "😀",
        "\n",
        "- ",
        "5",
        "%",
        "Dr. ",
        "+1 202 555 0123",
        "a@b.com",
        "1er",
        "½",
        "€",
        "-",
        "/",
        "#",
        "|",
        "No.",
        " 2025",
        "14h30",
        "999999999999999999999",
    ]
)


@given(st.lists(FRAGMENTS, max_size=12), st.sampled_from(LANGUAGES))
def test_any_text_has_a_spoken_form_without_figures_and_a_way_back(fragments: list[str], language: Language) -> None:
    text = "".join(fragments)
    piece = speakable(text, language)
    assert not re.search(r"[0-9*_#|€%½😀]", piece.spoken)
    assert piece.text == text
    # What was not replaced is the same on both sides.
    kept_text, kept_spoken, text_at, spoken_at = [], [], 0, 0
    for start, end, spoken_start, spoken_end in piece.replaced:
        assert text_at <= start <= end
        assert spoken_at <= spoken_start <= spoken_end
        kept_text.append(text[text_at:start])
        kept_spoken.append(piece.spoken[spoken_at:spoken_start])
        text_at, spoken_at = end, spoken_end
    assert [*kept_text, text[text_at:]] == [*kept_spoken, piece.spoken[spoken_at:]]
    assert piece.written_end(len(piece.spoken)) in (0, len(text.rstrip()))
