"""A model's token stream -> pieces to speak: sentences, and for the first piece a clause, so that speech starts early.

Nothing is added or lost: the pieces joined are the text. White space belongs to the piece before it, because the
synthesizer joins pieces verbatim. Numbers, addresses and links stay in one piece, so that they can be said right.
"""

from __future__ import annotations

import re
from functools import cache

from serve_app.conversation.phrases import Language
from serve_app.conversation.speakable_words import wordings_of

_END = re.compile(r"(?P<mark>[.!?…]+)(?P<closing>(?:[\"'”’)\]»]|\s»)*)(?=\s)|\n+|[。！？]+")
_CLAUSE = re.compile(r"(?:[,;:]|(?<!\d)(?<!\d\s)—)(?=\s)")
_SPACE = re.compile(r"\s+")
_OPENING = "\"'“‘«¿¡( "
_LONGEST_LINK = 200
"""Characters of a link's text; a bracket that is open for longer is none."""
_LAST_WORD = re.compile(r"[\w.-]+$")


class _Abbreviations:
    """Words of one language, lower-case, before a full stop that may not end a sentence."""

    def __init__(self, language: Language) -> None:
        wordings = wordings_of(language)
        self.never_end = frozenset(word.lower() for word in wordings.titles)
        self.may_end = frozenset(word.lower() for word in (*wordings.abbreviations, *wordings.kept_abbreviations))
        self.before_number = frozenset(word.lower() for word in wordings.before_number)


@cache
def _abbreviations_of(language: Language) -> _Abbreviations:
    return _Abbreviations(language)


class SentenceSplitter:
    """Feed deltas, speak what comes back, `flush` at the end."""

    def __init__(self, language: Language = "en", *, first_clause_chars: int = 30, longest_chars: int = 300) -> None:
        """`first_clause_chars`: the first piece may end at a comma when it is at least so long (a very short first
        piece sounds clipped, and its audio ends before the next is there). `longest_chars`: a text without any end
        mark is cut at white space beyond it.
        """
        self._abbreviations = _abbreviations_of(language)
        self._first_clause_chars = first_clause_chars
        self._longest_chars = longest_chars
        self._text = ""
        self._first = True

    def feed(self, delta: str) -> list[str]:
        """The pieces that `delta` completes."""
        self._text += delta
        pieces = []
        while (end := self._boundary()) is not None:
            pieces.append(self._text[:end])
            self._text = self._text[end:]
            self._first = False
        return pieces

    def flush(self) -> list[str]:
        """What is left, as one piece; nothing when only white space is left."""
        rest, self._text = self._text, ""
        self._first = False
        return [rest] if rest.strip() else []

    def _boundary(self) -> int | None:
        text = self._text
        for match in _END.finditer(text):
            if not text[: match.end()].strip() or _in_brackets(text, match.start()):
                continue
            following = text[match.end() :].lstrip()
            if (ends := self._ends(match, following)) is None:
                break
            if ends:
                return len(text) - len(following)
        if self._first:
            for match in _CLAUSE.finditer(text, self._first_clause_chars):
                following = text[match.end() :].lstrip()
                # "March 14, 2025" and "10, 20 and 30" are said in one breath.
                in_figures = text[match.start() - 1].isdigit() and (not following or following[0].isdigit())
                if not in_figures and not _in_brackets(text, match.start()):
                    return len(text) - len(following)
        return self._cut() if len(text) > self._longest_chars else None

    def _ends(self, match: re.Match[str], following: str) -> bool | None:
        """Whether a sentence ends with the match; None while the next word decides and is not here yet."""
        mark, closing = match["mark"], match["closing"]
        if mark is None:
            return True
        before = match.string[: match.start()]
        if before.count("«") > before.count("»") and "»" not in closing and not following:
            return None
        if mark == "." and not closing:
            return self._full_stop_ends(before, following)
        if closing or mark[0] == "…" or mark.startswith(".."):
            # '"Really?" she asked', "Well... maybe": it goes on.
            return None if not following else not following[0].islower()
        return True

    def _full_stop_ends(self, before: str, following: str) -> bool | None:
        match = _LAST_WORD.search(before)
        written = match.group() if match else ""
        word, known = written.lower(), self._abbreviations
        if word in known.never_end:
            return False
        is_initial = len(written) == 1 and written.isupper() and written != "I"
        line = before[: len(before) - len(written)]
        is_list_number = word.isdigit() and (not line.strip() or line.endswith("\n"))
        if is_list_number or is_initial:
            return False
        # "a. m.", "p. ej."
        is_letter = len(written) == 1 and written.islower()
        if word not in known.may_end and not is_letter:
            return True
        next_word = following.lstrip(_OPENING)
        if not next_word:
            return None
        return word not in known.before_number if next_word[0].isdigit() else next_word[0].isupper()

    def _cut(self) -> int | None:
        """At the last white space that is allowed to be one; at none in a single long word."""
        text = self._text
        for match in reversed(list(_SPACE.finditer(text, 1, self._longest_chars))):
            before, after = text[match.start() - 1], text[match.end() : match.end() + 1]
            in_figures = (before.isdigit() or before in "+)$€£") and (after.isdigit() or after in "($€£%")
            if after and not in_figures and not _in_brackets(text, match.start()):
                return match.end()
        return None


def _in_brackets(text: str, position: int) -> bool:
    """Whether the text of a link is open there. A bracket on an earlier line has been forgotten."""
    opened = text.rfind("[", max(0, position - _LONGEST_LINK), position)
    return opened >= 0 and "]" not in text[opened:position] and "\n" not in text[opened:position]
