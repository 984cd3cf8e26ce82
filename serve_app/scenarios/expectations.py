"""Whether what happened in a call is what a scenario expects, and what happened instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.conversation import turn_types as t
from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.lease import CallResult
from serve_app.conversation.phrases import normalise_words
from serve_app.scenarios.document import Expected
from serve_app.scenarios.trace import Entry

OFF_WORDS = 1
"""How far a text that was cut may be from what was heard."""


@dataclass(frozen=True, slots=True)
class Happened:
    """A call up to now. `entries`, `turns`: since the callee's latest step; `cut`: the latest interrupted turn."""

    entries: Sequence[Entry]
    turns: Sequence[TurnRecord]
    cut: TurnRecord | None
    spoke_until: float
    """When the callee's latest step ended, on the trace's clock."""
    opt_outs: Sequence[tuple[str, str]]
    longest_silence_s: float
    result: CallResult | None

    def lacks(self, expected: Expected) -> list[str]:
        """What is not as expected, each with what happened instead; empty when all is."""
        return [
            f"expected {name}: {wish!r}; {seen}"
            for name, wish in expected.wishes.items()
            if (seen := getattr(self, f"_{name}")(wish)) is not None
        ]

    # One method for each wish: None when it holds, else what there is instead.

    def _text(self, wish: str) -> str | None:
        return self._said(lambda heard: heard.split() == wish.split())

    def _contains(self, wish: str) -> str | None:
        return self._said(lambda heard: wish.casefold() in heard.casefold())

    def _regex(self, wish: str) -> str | None:
        return self._said(lambda heard: re.search(wish, heard) is not None)

    def _said(self, matches: Any) -> str | None:
        heard = [turn.heard_text for turn in self.turns if turn.role == "agent" and turn.heard_text]
        return None if any(map(matches, heard)) else f"the agent said {heard or 'nothing'}"

    def _heard(self, wish: str) -> str | None:
        if self.cut is None:
            return "the agent was not interrupted"
        shorter, longer = sorted((normalise_words(wish), normalise_words(self.cut.heard_text)), key=len)
        near = len(longer) - len(shorter) <= OFF_WORDS and longer[: len(shorter)] == shorter
        return None if near else f"heard was {self.cut.heard_text!r} of {self.cut.text!r}"

    def _line(self, wish: str) -> str | None:
        begun = {item.generation for item in self._items(t.PlayoutStarted)}
        lines = [item for item in self._items(t.SpeakLine) if item.generation in begun]
        return None if any(item.kind == wish for item in lines) else f"lines: {[item.kind for item in lines] or 'none'}"

    def _tool(self, wish: str) -> str | None:
        called = [item.name for item in self._items(t.ToolCalled)]
        return None if wish in called else f"called: {called or 'none'}"

    def _language(self, wish: str) -> str | None:
        switched = [item.language for item in self._items(t.SwitchLanguage)]
        return None if wish in switched else f"switched to: {switched or 'none'}"

    def _draft(self, wish: str) -> str | None:
        found = {
            "started": bool(self._items(t.StartDraft)),
            "committed": any(item.draft is not None for item in self._items(t.StartReply)),
            "dropped": bool(self._items(t.DropDraft)),
        }
        return None if found[wish] else f"drafts: {[name for name, is_so in found.items() if is_so] or 'none'}"

    def _resumed(self, wish: bool) -> str | None:
        return None if self._items(t.ResumePlayout) else "the agent did not go on"

    def _cause(self, wish: str) -> str | None:
        causes = [cause for turn in self.turns for cause in turn.latency.causes]
        if self.result is not None and self.result.detail:
            causes.append(self.result.detail)
        return None if any(wish in cause for cause in causes) else f"recorded: {causes or 'none'}"

    def _opted_out(self, wish: str | bool) -> str | None:
        sources = [source for source, _ in self.opt_outs]
        holds = wish in sources if isinstance(wish, str) else not sources
        return None if holds else f"opt-outs: {sources or 'none'}"

    def _outcome(self, wish: str) -> str | None:
        if self.result is None:
            return "the call is not over"
        ended = self.result.outcome
        return None if ended == wish else f"it is {ended} ({self.result.detail or 'no detail'})"

    def _within_ms(self, wish: float) -> str | None:
        starts = (e.at for e in self.entries if isinstance(e.item, t.PlayoutStarted) and e.at >= self.spoke_until)
        first = next(starts, None)
        if first is None:
            return "the agent said nothing"
        waited_ms = (first - self.spoke_until) * 1000
        return None if waited_ms <= wish else f"it took {waited_ms:.0f} ms"

    def _silence_below_s(self, wish: float) -> str | None:
        longest = self.longest_silence_s
        return None if longest < wish else f"the longest silence was {longest:.2f} s"

    def _items(self, kind: type[Any]) -> list[Any]:
        return [entry.item for entry in self.entries if isinstance(entry.item, kind)]
