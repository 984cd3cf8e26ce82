"""Goodbyes: whether both sides have said theirs. Sans-I/O, part of the turn machine."""

from __future__ import annotations

from serve_app.conversation.phrases import matcher


class Goodbyes:
    """Of the callee's latest turn, and of the model that answers it."""

    def __init__(self, phrases: tuple[str, ...]) -> None:
        self._phrases = matcher(phrases)
        self._said = False
        self.mentioned = False
        """Somewhere in the callee's turn: it needs the agent's own to mean the end."""
        self.model_ends_the_call = False

    def callee_said(self, text: str) -> None:
        self._said = self._phrases.at_end(text)
        self.mentioned = self._phrases.anywhere(text)

    def forget(self) -> None:
        """The callee goes on, or something went wrong: the conversation is not over."""
        self._said = self.mentioned = self.model_ends_the_call = False

    @property
    def farewell_due(self) -> bool:
        """The call is to end, and the agent has yet to say so."""
        return self._said or self.model_ends_the_call

    def answered_with(self, text: str) -> bool:
        """Whether this reply says goodbye to one who did, or by the model's own wish."""
        return (self.mentioned or self.model_ends_the_call) and self._phrases.anywhere(text)
