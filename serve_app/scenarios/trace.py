"""What happened in a call, in order: the turn machine's events and commands, and what the callee did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from serve_app.conversation import turn_types as t
from serve_app.conversation.journal import TurnRecord

Source = Literal["callee", "event", "command"]

_UNORDERED = (
    # How often, and when, a transcriber tells words is its own affair; so is a timer that is moved with each.
    t.CalleePartial,
    t.SetTimer,
    t.CancelTimer,
    # A synthesizer may be done before or after the first frame is on the wire.
    t.ReplyFinished,
    t.ReplySentence,
)
_TEXTS = ("text", "user_text")


@dataclass(frozen=True, slots=True)
class Entry:
    """`item`: the event or command; for the callee, what it did in words."""

    at: float
    source: Source
    item: Any

    def __str__(self) -> str:
        return self.item if isinstance(self.item, str) else _told(self.item, times=True)


class Trace:
    """Grows during a call. Times are the loop's."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.entries: list[Entry] = []
        self._observers: list[Callable[[t.TurnEvent, Sequence[t.TurnCommand]], None]] = []

    def watch(self, observer: Callable[[t.TurnEvent, Sequence[t.TurnCommand]], None]) -> None:
        """`observer` is told of the same."""
        self._observers.append(observer)

    def observe(self, event: t.TurnEvent, commands: Sequence[t.TurnCommand]) -> None:
        """As `CallSession(observe=...)` tells it."""
        now = self._now()
        self.entries.append(Entry(now, "event", event))
        self.entries += [Entry(now, "command", command) for command in commands]
        for observer in self._observers:
            observer(event, commands)

    def callee(self, what: str) -> None:
        self.entries.append(Entry(self._now(), "callee", what))

    def order(self) -> list[str]:
        """Events and commands by name and text, without times: the same for the same conversation, however it ran."""
        items = (entry.item for entry in self.entries if entry.source != "callee")
        return [_told(item, times=False) for item in items if not isinstance(item, _UNORDERED)]

    def timeline(self, turns: Iterable[TurnRecord] = ()) -> str:
        """For people. Seconds since the first entry; repeated timers are left out."""
        zero = self.entries[0].at if self.entries else 0.0
        lines = [
            f"{entry.at - zero:8.3f}  {entry.source:<8} {entry}"
            for entry in self.entries
            if not isinstance(entry.item, t.SetTimer | t.CancelTimer)
        ]
        return "\n".join([*lines, "what was recorded:", *map(_turn, turns)])


def _told(item: Any, *, times: bool) -> str:
    """`CalleeTurnEnded 'Yes'`: the name, its text, and, with `times`, everything else that is set."""
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    parts = [type(item).__name__]
    for name, value in values.items():
        if name in _TEXTS and value is not None:
            parts.append(repr(str(value).strip()))
        elif name in ("kind", "name", "source", "outcome", "language", "stage", "digit"):
            parts.append(str(value))
        elif times and value not in (None, False, ""):
            parts.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
    return " ".join(parts)


def _turn(turn: TurnRecord) -> str:
    total_ms = turn.latency.total_ms
    notes = [
        *(["interrupted"] if turn.interrupted else []),
        *([f"after {total_ms:g} ms"] if total_ms is not None else []),
        *turn.latency.causes,
    ]
    text = repr(turn.heard_text)
    if turn.heard_text != turn.text:
        text += f" of {turn.text!r}"
    told = f" ({', '.join(notes)})" if notes else ""
    return f"{turn.started_ms / 1000:8.3f}  {turn.role:<8} {text}{told}"
