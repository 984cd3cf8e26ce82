"""What people say on the phone: what the lists must know, and what must not be mistaken for it, word by word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.conversation import turn_types as t
from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.closing import Goodbyes
from serve_app.conversation.interruption import InterruptionJudge
from serve_app.conversation.language_requests import LanguageRequests
from serve_app.conversation.opt_out_words import opt_out_matcher
from serve_app.conversation.phrases import (
    Language,
    LineName,
    PhraseMatcher,
    Phrases,
    matcher,
    normalise_words,
    phrases_of,
)
from serve_app.conversation.turn import TurnMachine
from tests.unit.api_support import AGENT

LANGUAGES: tuple[Language, ...] = get_args(Language)

OPT_OUTS: dict[Language, list[str]] = {
    "en": [
        "Don't call me again.",
        "Please do not call me again, okay?",
        "Don’t ever call me again!",
        "Never call here again.",
        "I said don't call me anymore.",
        "Stop calling me.",
        "Would you please stop calling me please",
        "Stop calling this number.",
        "Quit calling us, I'm serious.",
        "Stop calling me, I am not interested.",
        "Look, take me off your list.",
        "Can you remove my number from your calling list?",
        "Take us off your call list right away",
        "Remove me from all your lists.",
        "Put me on your do not call list.",
        "I'm on the national do not call registry.",
        "Unsubscribe.",
        "Opt me out, please.",
        "I'd like to opt out.",
        "How do I opt out?",
        "I don't want any more calls.",
        "I do not want to hear from you again.",
        "I told you not to call me.",
        "I never want to hear from you people again.",
        "Don't call me.",
        "No, please don't call me.",
        "I'm not interested, please don't call.",
        "No thanks. Stop calling.",
        "Don't call this number, call my lawyer.",
        "I withdraw my consent.",
        "Delete my number.",
        "Opt out",
        "I'd like to be removed from your list.",
        "I want to be taken off your list.",
        "Don't you ever call me again!",
        "Can you please not call me again?",
        "I no longer want to be called.",
        "Put me on the national do not call list.",
        "Please stop the calls.",
        "Don't wanna hear from you again.",
        "I don't wanna be called anymore.",
        "Do not call list.",
        "I want to opt out of your calls.",
        "Unsubscribe me from your list.",
        "I don't want any more calls from you.",
        "How do I opt out?",
        "You people, stop calling me.",
    ],
    "es": [
        "No me llame más.",
        "¡No me llamen más, por favor!",
        "No me vuelva a llamar.",
        "No me vuelvan a llamar nunca.",
        "Ya le dije que no me llamen.",
        "Deje de llamarme.",
        "Por favor, dejen de llamar a este numero.",
        "Paren de molestarme.",
        "Quítenme de su lista.",
        "Quiteme de la lista",
        "Borren mi número.",
        "Elimine mi teléfono de una vez.",
        "No quiero más llamadas.",
        "No quiero que me llamen más.",
        "No quiero recibir más llamadas.",
        "Estoy en la lista Robinson.",
        "Quiero darme de baja.",
        "No me llame.",
        "No, gracias, no me interesa, no me llamen.",
        "No más llamadas.",
        "Nunca más me llame.",
        "Retiro mi consentimiento.",
    ],
    "fr": [
        "Ne m'appelez plus.",
        "M'appelez plus !",
        "Ne m’appelez plus jamais.",
        "Ne me rappelez plus, s'il vous plaît.",
        "Ne me rappelez pas.",
        "Arrêtez de m'appeler.",
        "Arretez de m'appeler s'il vous plait",
        "Cessez de me déranger.",
        "Retirez-moi de votre liste.",
        "Supprimez mon numéro.",
        "Enlevez mon numéro de votre fichier.",
        "Je ne veux plus être appelée.",
        "Je veux plus d'appels.",
        "Je ne veux plus que vous m'appeliez.",
        "Je suis inscrit sur Bloctel.",
        "Inscrivez-moi sur Bloctel.",
        "Je vous ai demandé de ne plus m'appeler.",
        "Non merci, ne m'appelez pas.",
        "Plus d'appels.",
        "Désinscrivez-moi.",
    ],
}

HARMLESS: dict[Language, list[str]] = {
    "en": [
        "Don't call me on Monday, call me Tuesday.",
        "Don't call me before nine.",
        "Please don't call me at work, this is my cell.",
        "Don't call me again before nine, okay?",
        "Do not call me again until I have talked to my wife.",
        "Stop calling me so late.",
        "Stop calling me sir.",
        "Stop calling me at work, use this number.",
        "Can you call me again tomorrow?",
        "Why did nobody call me again?",
        "Could you take me off hold?",
        "Can you put me on the list for Tuesday?",
        "Remove me from the waiting list for Tuesday.",
        "My number is on your list.",
        "I always forget my number.",
        "Did you lose my number?",
        "No, don't bother, thanks.",
        "You don't call me, I call you.",
        "Stop. I have a question.",
        "My doctor told me to stop calling it a cold.",
        "Don't forget to call me.",
        "I don't want to change the appointment.",
        "I do not want any sugar.",
        "Never mind, call me later.",
        "Is there an opt out fee?",
        "I can't stop, call me back in an hour.",
        "Nobody wants to be called at six in the morning.",
        "Don't call me again next week, the week after is fine.",
        "Don't call me again Monday, I work Mondays.",
        "Don't call me again once the results are in.",
        "Stop calling me Bob, my name is Robert.",
        "Don't stop calling me.",
        "Never stop contacting me about this.",
        "Can I opt out of the fluoride treatment?",
        "Can we opt out of the x-ray?",
        "How do I unsubscribe from your newsletter?",
        "I don't want more calls from the insurance company.",
        "Please don't call me again with a different price, just mail me.",
        "Don't call me anymore than once a week.",
        "I got a letter: remove my number of appointments.",
    ],
    "es": [
        "No me llame el lunes, llámeme el martes.",
        "No me llame más tarde, estoy libre ahora.",
        "Llámeme más tarde, por favor.",
        "No me llame antes de las nueve.",
        "No me llamo Juan, me llamo Pedro.",
        "¿Me puede llamar de nuevo mañana?",
        "No me vuelva a llamar hasta mañana.",
        "Deje de llamarme señor.",
        "Quite la cita del viernes.",
        "¿Por qué no me llamaron ayer?",
        "Quiero darme de baja del seguro.",
        "No quiero cambiar la hora.",
        "No, no me molesta.",
        "¿Tiene más llamadas hoy?",
        "Mi número está en su lista.",
    ],
    "fr": [
        "Ne m'appelez pas lundi, appelez-moi mardi.",
        "Vous m'appelez plus tard ?",
        "M'appelez plus tôt la prochaine fois.",
        "Rappelez-moi demain.",
        "Ne me rappelez pas avant dix heures.",
        "Ne m'appelez plus le soir.",
        "Arrêtez de m'appeler madame.",
        "Je ne veux plus de sucre.",
        "Je ne veux pas changer le rendez-vous.",
        "Pourquoi on ne m'a pas appelé ?",
        "Mon numéro est dans votre liste.",
        "Retirez le rendez-vous de vendredi.",
        "Je n'ai plus de questions.",
        "Vous pouvez m'appeler quand vous voulez.",
    ],
}


def first_heard(text: str, languages: tuple[Language, ...]) -> tuple[str, bool] | None:
    """The partial text, growing word by word, or the final one, at which the opt-out is heard."""
    heard = opt_out_matcher((), languages).heard
    words = text.split()
    for count in range(1, len(words) + 1):
        if heard(" ".join(words[:count]), final=False):
            return " ".join(words[:count]), False
    return (text, True) if heard(text, final=True) else None


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("together", [False, True])
def test_an_opt_out_in_the_usual_words_is_heard(language: Language, together: bool) -> None:
    languages = LANGUAGES if together else (language,)
    assert [text for text in OPT_OUTS[language] if first_heard(text, languages) is None] == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("together", [False, True])
def test_a_harmless_sentence_is_none_at_any_word_of_it(language: Language, together: bool) -> None:
    languages = LANGUAGES if together else (language,)
    assert [text for text in HARMLESS[language] if first_heard(text, languages) is not None] == []


@pytest.mark.parametrize(
    ("text", "at"),
    [
        # Whatever follows, it is meant: at once.
        ("Take me off your list now please", "Take me off your list"),
        ("I withdraw my consent to this", "I withdraw my consent"),
        # The next word could have limited it ("so late", "before nine"); this one does not.
        ("Stop calling me you idiots", "Stop calling me you"),
        ("Don't call me again I mean it", "Don't call me again I"),
        # A courtesy says nothing, so it goes on waiting; then nothing follows.
        ("Stop calling me please", None),
        ("Stop calling me", None),
        # Alone, and only when it is certain that nothing follows.
        ("Don't call me", None),
    ],
)
def test_it_counts_as_soon_as_its_meaning_is_certain(text: str, at: str | None) -> None:
    assert first_heard(text, ("en",)) == ((text, True) if at is None else (at, False))


def test_the_agents_own_phrases_count_wherever_they_are_said() -> None:
    own = opt_out_matcher(("please no more pigeons",), ("en",))
    assert own.heard("Well, please, no more pigeons on", final=False)
    assert not own.heard("No more pigeons", final=True)


def machine(**policies: Any) -> TurnMachine:
    made = TurnMachine(AgentDefinition.model_validate(AGENT | {"policies": policies}))
    made.handle(t.CallConnected())
    return made


def test_a_callee_who_says_it_and_hangs_up_has_said_it() -> None:
    calling = machine()
    assert not any(isinstance(c, t.OptOut) for c in calling.handle(t.CalleePartial("Don't call me again")))
    commands = calling.handle(t.MediaClosed("callee_hung_up", "closed"))
    assert t.OptOut("phrase", "Don't call me again") in commands
    assert commands[-1] == t.HangUp("opted_out", "closed")


def test_a_callee_who_only_asked_not_to_be_called_at_night_and_hangs_up_has_not() -> None:
    calling = machine()
    calling.handle(t.CalleePartial("Don't call me again before"))
    commands = calling.handle(t.MediaClosed("callee_hung_up", "closed"))
    assert not any(isinstance(c, t.OptOut) for c in commands)
    assert commands[-1] == t.HangUp("callee_hung_up", "closed")


def test_a_turn_that_is_lost_after_it_counts_too() -> None:
    calling = machine()
    calling.handle(t.CalleePartial("Stop calling me"))
    assert t.OptOut("phrase", "Stop calling me") in calling.handle(t.CalleeTurnLost("the socket was lost"))


def test_what_was_decided_by_an_earlier_turn_is_over() -> None:
    calling = machine()
    calling.handle(t.CalleePartial("Don't call me"))
    calling.handle(t.CalleeTurnEnded("Don't call me on Monday."))
    commands = calling.handle(t.MediaClosed("callee_hung_up", "closed"))
    assert not any(isinstance(c, t.OptOut) for c in commands)


# --- the other lists


@pytest.mark.parametrize(
    ("language", "ends", "goes_on"),
    [
        (
            "en",
            [
                "Okay, goodbye.",
                "Thanks, bye bye!",
                "Have a nice day.",
                "See you on Thursday. Take care.",
                "See you then.",
                "I will see you tomorrow.",
                "We are fine then, talk to you soon.",
                "Is that all? Okay, bye.",
                "Will do, see you tomorrow.",
                "Do have a nice day.",
                "I hope you have a nice weekend",
            ],
            [
                "When can I see you?",
                "Is it good by you?",
                "What a nice day",
                "I will be by the door.",
                "Can I come in and see you tomorrow",
                "Hi, uh, so can I come in and see you tomorrow",
                "When should I see you then",
                "Okay thanks, when should I see you then",
                "will I see you next week",
                "Thanks so much for that will I see you next week",
                "So I'll see you tomorrow?",
                "Do you take care",
                "Who will take care",
                "I want to see you tomorrow",
                "I can't see you tomorrow",
                "Did you have a nice weekend",
                "We had a good night",
                "Does the doctor talk to you later",
                "Do you take care of small children",
            ],
        ),
        (
            "es",
            ["Gracias, adiós.", "Hasta luego.", "Que tenga un buen día.", "Que le vaya bien.", "Entonces nos vemos."],
            [
                "¿Hasta cuándo?",
                "Abren hasta mañana",
                "Buenas noches",
                "¿Nos vemos mañana, hasta luego?",
                "Cuándo nos vemos",
                "Y a qué hora nos vemos",
                "Nos vemos en la consulta",
                "Oiga, puedo pasar a la consulta y hasta luego",
            ],
        ),
        (
            "fr",
            [
                "Merci, au revoir.",
                "Bonne journée !",
                "À bientôt.",
                "Allez, bonne fin de journée.",
                "Passez une bonne soirée",
                "À plus !",
            ],
            [
                "Salut",
                "C'est reporté à demain",
                "Quelle journée",
                "C'était une bonne journée",
                "Est-ce que je peux venir à bientôt",
                "Alors, quand est-ce que je vous dis à bientôt",
                "On se revoit à bientôt ?",
            ],
        ),
    ],
)
def test_goodbyes(language: Language, ends: list[str], goes_on: list[str]) -> None:
    for languages in ((language,), LANGUAGES):
        goodbyes = Goodbyes((), languages)
        assert [text for text in ends if not goodbyes.is_one(text)] == []
        assert [text for text in goes_on if goodbyes.is_one(text)] == []


@pytest.mark.parametrize(
    ("callee", "agent", "over"),
    [
        ("Ok thanks see you tomorrow", "See you tomorrow at ten.", True),
        ("Ok thanks see you tomorrow", "Goodbye, Mr. Brown!", True),
        ("Goodbye then, Ava", "You are welcome. Have a nice day, Dr. van Dyke.", True),
        ("Gracias, hasta luego", "Hasta luego, Sra. López.", True),
        # The agent goes on.
        ("Ok thanks see you tomorrow", "See you tomorrow at ten. One more thing, is it still the same number?", False),
        ("Ok thanks see you tomorrow", "Goodbye. Your card is at the desk.", False),
        ("Ok thanks see you tomorrow", "Goodbye is what they all say when they come in here.", False),
        ("Ok thanks see you tomorrow", "So I will see you tomorrow?", False),
        ("Ok thanks see you tomorrow", "Would you like me to book it? 'Goodbye' or 'see you'?", False),
        # The callee has said no goodbye.
        ("Do you take care of small children", "Yes, we take care of children. Take care.", False),
        ("They take care of it I hope", "They do. Goodbye.", False),
        ("Can I come in and see you tomorrow", "Yes. See you tomorrow.", False),
    ],
)
def test_a_goodbye_is_over_when_both_have_said_it_and_the_agent_last(callee: str, agent: str, over: bool) -> None:
    both: tuple[Language, ...] = ("en", "es")
    for languages in (both, LANGUAGES):
        goodbyes = Goodbyes((), languages)
        goodbyes.callee_said(callee)
        assert goodbyes.answered_with(agent) == over


def test_an_agents_own_goodbyes_count_too() -> None:
    goodbyes = Goodbyes(("so long, partner",), ["en"])
    assert goodbyes.is_one("Well, so long, partner.")
    assert not goodbyes.is_one("Is it so long, partner?")


@pytest.mark.parametrize(
    ("language", "ignored", "interrupts"),
    [
        (
            "en",
            [
                "Mm-hmm.",
                "uh-huh",
                "Okay",
                "Yeah, sure.",
                "Right, right, I see.",
                "oh okay that's fine",
                "Got it, thanks.",
            ],
            ["Stop", "wait a minute", "No", "Excuse me", "But I am", "Okay but when", "What?"],
        ),
        (
            "es",
            ["Ajá", "sí, sí", "Claro que sí", "vale, entiendo", "De acuerdo, muy bien"],
            ["Espere", "No", "Un momento", "Pero yo", "Sí pero cuándo"],
        ),
        (
            "fr",
            ["Mhm", "oui oui", "d'accord", "Ah bon, très bien", "ok je vois"],
            ["Attendez", "Non", "Une seconde", "Mais je", "Oui mais quand"],
        ),
    ],
)
def test_backchannels_never_interrupt_and_these_always_do(
    language: Language, ignored: list[str], interrupts: list[str]
) -> None:
    judge = InterruptionJudge(AgentDefinition.model_validate(AGENT).policies, [language])
    assert {text: judge.over_speech(text) for text in ignored} == dict.fromkeys(ignored, "ignore")
    assert {text: judge.over_speech(text) for text in interrupts} == dict.fromkeys(interrupts, "interrupt")


@pytest.mark.parametrize("language", LANGUAGES)
def test_how_people_answer_a_phone_is_no_answer_to_the_opening(language: Language) -> None:
    judge = InterruptionJudge(AgentDefinition.model_validate(AGENT).policies, [language])
    greetings: dict[Language, list[str]] = {
        "en": ["Hello?", "Yes, hello, who is this?", "Good morning.", "Speaking."],
        "es": ["¿Diga?", "¿Bueno?", "Sí, dígame.", "Hola, ¿quién habla?", "Aló"],
        "fr": ["Allô ?", "Oui, bonjour.", "Allô, oui, j'écoute.", "C'est qui ?"],
    }
    for text in greetings[language]:
        assert not judge.answers(text, question=False, left_s=5, opening=True), text
    assert judge.answers("I am not at home", question=False, left_s=5, opening=True)


def forms(phrase: str) -> Iterator[str]:
    """All that a phrase stands for."""
    choice = re.search(r"\(([^)]*)\)|\[([^\]]*)\]", phrase)
    if choice is None:
        yield " ".join(phrase.split())
        return
    choices = (choice[1] or choice[2]).split("|") + ([] if choice[1] else [""])
    for one in choices:
        yield from forms(phrase[: choice.start()] + one + phrase[choice.end() :])


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("min_words", [0, 1, 2])
def test_no_backchannel_interrupts_whether_whole_or_growing(language: Language, together: bool, min_words: int) -> None:
    policies = {"interruption": {"min_words": min_words}}
    agent = AgentDefinition.model_validate(AGENT | {"policies": policies})
    judge = InterruptionJudge(agent.policies, LANGUAGES if together else [language])
    said = [form for phrase in phrases_of(language).backchannels for form in forms(phrase)]
    assert len(said) > 30
    for text in (*said, *(f"okay {one}" for one in said), *(f"{one} ok" for one in said)):
        assert judge.over_speech(text) == "ignore", text
        assert not judge.says_something(text), text
        words = text.split()
        growing = [judge.over_speech(" ".join(words[:n]), more_may_come=True) for n in range(1, len(words) + 1)]
        assert "interrupt" not in growing, text


@pytest.mark.parametrize(
    ("text", "partial", "final"),
    [
        ("no", "hold", "interrupt"),
        ("okay no", "hold", "interrupt"),
        ("No.", "interrupt", "interrupt"),
        ("no problem wait", "interrupt", "interrupt"),
        ("no no problem", "interrupt", "interrupt"),
        ("wait no", "interrupt", "interrupt"),
        ("that makes", "ignore", "interrupt"),
        ("that makes it", "interrupt", "interrupt"),
        ("no problem but I am away", "interrupt", "interrupt"),
    ],
)
def test_words_that_may_become_a_backchannel_wait_for_the_next_one(text: str, partial: str, final: str) -> None:
    judge = InterruptionJudge(AgentDefinition.model_validate(AGENT).policies, ["en"])
    assert (judge.over_speech(text, more_may_come=True), judge.over_speech(text)) == (partial, final)


def test_an_agents_own_word_that_interrupts_does_so_though_it_is_a_backchannel_elsewhere() -> None:
    policies = {"interruption": {"always": ["okay"]}}
    judge = InterruptionJudge(AgentDefinition.model_validate(AGENT | {"policies": policies}).policies, ["en"])
    assert judge.over_speech("yeah okay") == "interrupt"


REQUESTS: list[tuple[str, Language | None]] = [
    ("En español, por favor.", "es"),
    ("En castellano si puede ser", "es"),
    ("Do you speak Spanish?", "es"),
    ("Is there anyone who speaks Spanish?", "es"),
    ("Can we do this in Spanish?", "es"),
    ("No hablo inglés.", "es"),
    ("¿Habla español?", "es"),
    ("Je ne parle pas anglais.", "fr"),
    ("Parlez-vous français ?", "fr"),
    ("En français s'il vous plaît", "fr"),
    ("Do you speak French?", "fr"),
    ("French, please.", "fr"),
    ("English, please.", "en"),
    ("I don't speak Spanish.", "en"),
    ("¿Habla usted inglés?", "en"),
    ("Vous parlez anglais ?", "en"),
    ("Je ne parle pas français, English please", "en"),
    ("I have an appointment on Thursday.", None),
    ("Mi esposa es francesa.", None),
    ("J'habite en Espagne.", None),
    ("The Spanish teacher sent me.", None),
    ("Sorry, en español por favor", "es"),
    ("No, sorry, in Spanish, please.", "es"),
    ("Could we continue in French?", "fr"),
    ("Could you say that again in English?", "en"),
    ("¿Podemos hablar en inglés?", "en"),
    ("¿Me lo puede repetir? No hablo inglés.", "es"),
    ("On peut parler en espagnol ?", "es"),
    ("Allô, en français, si possible.", "fr"),
    # It is spoken of, and not asked for.
    ("Do you have the form in French", None),
    ("Do you have the form in French, please?", None),
    ("I left it in Spanish class", None),
    ("The letter was in English.", None),
    ("Could you send it in Spanish please", None),
    ("¿Tiene el formulario en inglés?", None),
    ("El papel estaba en español por favor mírelo", None),
    ("J'ai reçu la lettre en anglais", None),
    ("Le mode d'emploi est en français, s'il vous plaît ?", None),
    ("French.", None),
]


@pytest.mark.parametrize(("text", "language"), REQUESTS)
def test_a_language_is_asked_for_in_it_and_in_others(text: str, language: Language | None) -> None:
    assert LanguageRequests(LANGUAGES).asked(text) == ([] if language is None else [language])


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_fixed_lines_are_complete_and_are_what_they_should_be(language: Language) -> None:
    phrases = phrases_of(language)
    assert set(phrases.lines) == set(get_args(LineName))
    goodbyes = matcher(phrases.goodbyes)
    for name, line in phrases.lines.items():
        ends = name in ("farewell", "failure_farewell", "opted_out")
        assert goodbyes.at_end(line) == ends, (name, line)
        assert opt_out_matcher((), LANGUAGES).heard(line, final=True) is False, "an echo of it must not opt anybody out"
    assert len(phrases.fillers) >= 2


# --- the files and the matcher


def test_the_lists_are_part_of_the_package() -> None:
    folder = resources.files("serve_app.conversation") / "phrases"
    assert sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml")) == [
        f"{language}.yaml" for language in sorted(LANGUAGES)
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"goodbyes": ["bye (now"]}, "brackets must match"),
        ({"goodbyes": ["a ((b|c) d)"]}, "brackets must match"),
        ({"goodbyes": ["!!"]}, "no words"),
        ({"goodbyes": [True]}, "goodbyes.0"),
        ({"goodbys": ["bye"]}, "goodbys"),
        ({"courtesies": None}, "courtesies"),
    ],
)
def test_a_list_that_is_wrong_is_refused_by_name(change: dict[str, Any], told: str) -> None:
    file = resources.files("serve_app.conversation") / "phrases" / "en.yaml"
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    with pytest.raises(ValidationError, match=told):
        Phrases.model_validate(document | change)


def test_words_are_compared_without_case_accents_apostrophes_and_punctuation() -> None:
    assert normalise_words("¡DON’T, quítenme l'été — uh-huh!") == ["dont", "quitenme", "lete", "uh", "huh"]


@pytest.mark.parametrize(
    ("phrase", "said", "not_said"),
    [
        ("(a|b c) d", ["a d", "b c d", "x b c d y"], ["b d", "c d", "a x d"]),
        ("a [b|c d] e", ["a e", "a b e", "a c d e"], ["a c e", "a d e"]),
        ("[a] b", ["b", "a b"], ["a"]),
        ("a b", ["a b"], ["a", "b", "a x b"]),
        ("[a|b]", ["a"], ["c", ""]),
    ],
)
def test_choices(phrase: str, said: list[str], not_said: list[str]) -> None:
    one = PhraseMatcher([phrase])
    assert [text for text in said if not one.anywhere(text)] == []
    assert [text for text in not_said if one.anywhere(text)] == []


WORDS = st.lists(st.sampled_from(["a", "b", "c", "stop", "call"]), max_size=7).map(" ".join)


@given(st.lists(WORDS.filter(bool), min_size=1, max_size=4), WORDS)
def test_the_matcher_finds_what_a_search_finds(phrases: list[str], text: str) -> None:
    one = PhraseMatcher(phrases)
    padded = f" {text} "
    assert one.anywhere(text) == any(f" {phrase} " in padded for phrase in phrases)
    assert one.at_end(text) == any(padded.endswith(f" {phrase} ") for phrase in phrases)
