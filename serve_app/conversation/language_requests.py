"""Whether the callee asks to be spoken to in another language. Sans-I/O, part of the turn machine."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.conversation.closing import lead_ins
from serve_app.conversation.phrases import Language, matcher, normalise_words, phrases_of


class LanguageRequests:
    """Certain words only: what else may be meant ("the form in French") is for the model to understand."""

    def __init__(self, languages: Sequence[Language]) -> None:
        lists = {language: phrases_of(language) for language in languages}
        padding = tuple(p for one in lists.values() for p in lead_ins(one))
        self._anywhere = {language: matcher(one.language_requests) for language, one in lists.items()}
        self._alone = {language: matcher(one.language_requests_alone) for language, one in lists.items()}
        self._or_padding = {
            language: matcher((*one.language_requests_alone, *padding)) for language, one in lists.items()
        }

    def asked(self, text: str) -> list[Language]:
        words = normalise_words(text)
        return [language for language in self._anywhere if self._asks(language, words)]

    def _asks(self, language: Language, words: Sequence[str]) -> bool:
        if self._anywhere[language].anywhere_in(words):
            return True
        return self._alone[language].anywhere_in(words) and self._or_padding[language].covers_words(words)
