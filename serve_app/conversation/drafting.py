"""The draft of an answer to a turn that may be over: at most one at a time. Sans-I/O, part of the turn machine."""

from __future__ import annotations

from serve_app.conversation import turn_types as t
from serve_app.conversation.phrases import normalise_words


class Drafts:
    """A draft holds for the very words that it was made for; case, spaces and punctuation aside."""

    def __init__(self) -> None:
        self._latest: tuple[int, list[str]] | None = None
        self._started = 0

    def start(self, text: str) -> t.StartDraft:
        """Drop the one before first."""
        self._started += 1
        self._latest = self._started, normalise_words(text)
        return t.StartDraft(self._started, text)

    def take(self, text: str | None) -> int | None:
        """The draft for this text, which is then the caller's; None when there is none."""
        if self._latest is None or text is None or self._latest[1] != normalise_words(text):
            return None
        draft, self._latest = self._latest[0], None
        return draft

    def drop(self) -> list[t.TurnCommand]:
        """What is to do so that nothing of a draft is left."""
        if self._latest is None:
            return []
        draft, self._latest = self._latest[0], None
        return [t.DropDraft(draft)]
