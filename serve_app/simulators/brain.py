"""What the language-model stand-in says: the agent's own knowledge lines, chosen by shared words. Deterministic."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_STOP_WORDS = frozenset(
    word
    for line in (
        "a about an and any are as at be by can could do does for from give have hello hey hi how i if in is it me my",
        "need not of okay on or please so tell thanks thank that the there this time to us was we what when where",
        "which who will with works would you your yes yeah sure no well oh um uh know something anything else",
        "de la el los las un una que es en y le les et des du au",
    )
    for word in line.split()
)
_QUESTION = re.compile(r"\?|\b(what|where|when|who|which|how|can|could|do|does|is there|are there|qué|où)\b", re.I)
_GOODBYE = re.compile(r"\b(goodbye|good bye|bye|that's all|that is all|nothing else|adios|adiós|au revoir)\b", re.I)
# Wishes as people word them who do not use the usual phrases: a model understands them, a list of phrases does not.
_LEAVE_ME_ALONE = re.compile(
    r"\b(leave (me|us) alone|lose (my|this) number|(never|don't|do not) want to hear from you|stop bothering (me|us)"
    r"|harassing (me|us)|déjeme en paz|déjenme en paz|no me molesten?|olvídense de mí|laissez[- ]moi tranquille"
    r"|fichez[- ]moi la paix|arrêtez de me déranger|oubliez mon numéro)\b",
    re.I,
)
_RESULTS = (
    ("wrong_number", re.compile(r"\b(wrong number|nobody of that name|no one by that name)\b", re.I)),
    ("callback", re.compile(r"\b(call (me )?(back|again)|another time|in a meeting|driving)\b", re.I)),
    ("not_interested", re.compile(r"\bnot interested\b", re.I)),
)
_LANGUAGES = {
    "en": re.compile(r"\b(english|inglés|anglais)\b", re.I),
    "es": re.compile(r"\b(spanish|español|castellano|espagnol)\b", re.I),
    "fr": re.compile(r"\b(french|français|francés)\b", re.I),
}
_LANGUAGE_NAMES = {"English": "en", "Spanish": "es", "French": "fr"}
_SWITCHED = {
    "en": "Of course, let us go on in English. How can I help you?",
    "es": "Por supuesto, sigamos en español. ¿En qué puedo ayudarle?",
    "fr": "Bien sûr, continuons en français. Comment puis-je vous aider?",
}
_CONFIRMATION = re.compile(
    r"^\W*(yes|yeah|yep|sure|correct|right|of course|okay|ok|that works|perfect|great|sí|si|oui|d'accord)\b", re.I
)
_REFUSAL = re.compile(r"^\W*(no|nope|not really|non)\b", re.I)
# Questions name the thing asked for in other words than the fact does.
_RELATED = {
    "where": ("street", "address", "at", "located"),
    "address": ("street",),
    "park": ("parking",),
    "car": ("parking",),
    "long": ("minutes", "takes"),
    "bring": ("bring", "card"),
    "move": ("move", "other", "earliest"),
    "reschedule": ("move", "other", "earliest"),
    "change": ("move", "other", "earliest"),
    "hours": ("open",),
    "close": ("open",),
    "doctor": ("doctor",),
    "dentist": ("doctor",),
}
_UNKNOWN = {
    "en": "I am sorry, I do not know that. Is there anything else that I can help you with?",
    "es": "Lo siento, no lo sé. ¿Puedo ayudarle en algo más?",
    "fr": "Je suis désolée, je ne sais pas. Puis-je vous aider pour autre chose?",
}
_ACKNOWLEDGED = {
    "en": "Wonderful, thank you. Is there anything else you would like to know?",
    "es": "Muy bien, gracias. ¿Desea saber algo más?",
    "fr": "Très bien, merci. Souhaitez-vous savoir autre chose?",
}
_UNDERSTOOD = {
    "en": "I understand. What can I do for you instead?",
    "es": "Entiendo. ¿Qué puedo hacer por usted?",
    "fr": "Je comprends. Que puis-je faire pour vous?",
}
_FAREWELL = {
    "en": "Thank you for your time. Goodbye.",
    "es": "Gracias por su tiempo. Adiós.",
    "fr": "Merci de votre temps. Au revoir.",
}
_OPENERS = {"en": ("Of course. ", "Good question. ", "Sure. "), "es": ("Claro. ",), "fr": ("Bien sûr. ",)}


def answer(messages: Sequence[dict[str, Any]]) -> str:
    """The reply to the last user message of a chat, from the facts ("- " lines) in its system message."""
    system = "\n".join(_text(message) for message in messages if message.get("role") == "system")
    asked = user_text(messages)
    language = _language(system)
    if _LANGUAGES[language].search(asked) and not any(_LANGUAGES[other].search(asked) for other in _others(language)):
        return _SWITCHED[language]
    if _GOODBYE.search(asked):
        return _FAREWELL[language]
    if _CONFIRMATION.search(asked) and not _QUESTION.search(asked):
        return _ACKNOWLEDGED[language]
    facts = [line[2:].strip() for line in system.splitlines() if line.startswith("- ")]
    fact = _best(facts, asked)
    if fact is not None:
        openers = _OPENERS[language]
        return openers[sum(map(ord, asked)) % len(openers)] + fact
    if _CONFIRMATION.search(asked):
        return _ACKNOWLEDGED[language]
    if _REFUSAL.search(asked):
        return _UNDERSTOOD[language]
    return _UNKNOWN[language]


def wanted_tool(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]
) -> tuple[str, dict[str, Any]] | None:
    """The tool of the request that the last user message asks for, and its arguments; None: it is answered."""
    parameters = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
    asked = user_text(messages)
    if "opt_out" in parameters and _LEAVE_ME_ALONE.search(asked):
        return "opt_out", {"reason": asked}
    if "switch_language" in parameters:
        offered = parameters["switch_language"].get("properties", {}).get("language", {}).get("enum", [])
        for language, named in _LANGUAGES.items():
            if language in offered and named.search(asked):
                return "switch_language", {"language": language}
    if "report_result" in parameters:
        for result, told in _RESULTS:
            if told.search(asked):
                return "report_result", {"result": result}
    if "end_call" in parameters and _GOODBYE.search(asked):
        return "end_call", {}
    return None


def _language(system: str) -> str:
    """The language in which the system message wants the answer; English if it names none."""
    named = re.search(r"\bon the phone, in (\w+)", system)
    return _LANGUAGE_NAMES.get(named.group(1), "en") if named else "en"


def _others(language: str) -> list[str]:
    return [other for other in _LANGUAGES if other != language]


def user_text(messages: Sequence[dict[str, Any]]) -> str:
    """The text of the last user message."""
    return next((_text(message) for message in reversed(messages) if message.get("role") == "user"), "")


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    # The list form of a message's content: parts, of which only text is read.
    return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))


def _stem(word: str) -> str:
    for ending in ("ing", "es", "s", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


def _words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def _best(facts: Sequence[str], asked: str) -> str | None:
    """The fact that shares most content words with the question; the first of equals; None when none shares any."""
    wanted = {_stem(word) for word in _words(asked) if word not in _STOP_WORDS}
    hinted = {_stem(hint) for word in _words(asked) for hint in _RELATED.get(word, ()) if hint not in _STOP_WORDS}
    best, best_score = None, 0.0
    for fact in facts:
        known = {_stem(word) for word in _words(fact)}
        score = len(wanted & known) + 0.6 * len((hinted - wanted) & known)
        if score > best_score:
            best, best_score = fact, score
    return best
