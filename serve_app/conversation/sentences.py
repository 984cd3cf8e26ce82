"""A model's token stream -> pieces to speak: sentences, and for the first piece a clause, so that speech starts early.

Nothing is added or lost: the pieces joined are the text. White space belongs to the piece before it, because the
synthesizer joins pieces verbatim.
"""

from __future__ import annotations

import re


def _vocabulary(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Never the end of a sentence, whatever follows.
_TITLES = _vocabulary("mr mrs ms dr prof st sr sra srta mme mlle gen rep sen gov capt lt col rev fr hon")
# The end of a sentence only when a capital letter follows.
_MAYBE = _vocabulary("etc inc ltd corp co jr vs approx dept apt ave blvd rd no e.g i.e a.m p.m u.s u.k ph.d")
_NOT_BEFORE_NUMBER = _vocabulary("no nos p pp vol fig approx apt")

_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|\n+|[。！？]+")
_CLAUSE = re.compile(r"[,;:—](?=\s)")
_LAST_WORD = re.compile(r"[\w.]+$")


class SentenceSplitter:
    """Feed deltas, speak what comes back, `flush` at the end."""

    def __init__(self, *, first_clause_chars: int = 30, longest_chars: int = 300) -> None:
        """`first_clause_chars`: the first piece may end at a comma when it is at least so long (a very short first
        piece sounds clipped, and its audio ends before the next is there). `longest_chars`: a text without any end
        mark is cut at white space beyond it.
        """
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
            following = text[match.end() :].lstrip()
            if not text[: match.end()].strip():
                continue
            if match.group().startswith("."):
                ends = _ends_sentence(text[: match.start()], following)
                if ends is None:
                    return None
                if not ends:
                    continue
            return len(text) - len(following)
        if self._first:
            for match in _CLAUSE.finditer(text, self._first_clause_chars):
                return len(text) - len(text[match.end() :].lstrip())
        if len(text) > self._longest_chars and (space := text.rfind(" ", 1, self._longest_chars)) > 0:
            return space + 1
        return None


def _ends_sentence(before: str, following: str) -> bool | None:
    """Whether the full stop after `before` ends a sentence; None while the next word decides and is not here yet."""
    match = _LAST_WORD.search(before)
    word = match.group().lower() if match else ""
    if word in _TITLES:
        return False
    is_initial = len(word) == 1 and word.isalpha() and before[-1:].isupper() and word != "i"
    is_list_number = word.isdigit() and (not before[: -len(word)].strip() or before[: -len(word)].endswith("\n"))
    if is_list_number or is_initial:
        return False
    if word not in _MAYBE:
        return True
    if not following:
        return None
    if following[0].isdigit():
        return word not in _NOT_BEFORE_NUMBER
    return following[0].isupper()
