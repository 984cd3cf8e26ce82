"""Marks on their way: what the far end has not proven to have played yet. Sans-I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

MARK_GRACE_S = 1.0
"""How much later than modelled a mark may come back before the model gives way to it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Ask the network to say when everything before was played."""

    id: str


@dataclass(frozen=True, slots=True)
class _Pending:
    id: str
    after_index: int
    due_at: float


class FarMarks:
    """The marks of a call, in the order in which they were sent."""

    def __init__(self) -> None:
        self._pending: deque[_Pending] = deque()
        self._added = 0
        self.proven = False
        """Whether this network has ever sent a mark back. Where none comes, the model is all there is."""

    def __bool__(self) -> bool:
        """Whether any is pending."""
        return bool(self._pending)

    def add(self, label: int, after_index: int, due_at: float) -> Mark:
        """`after_index`: frames of the call that lie before the mark. `due_at`: when they are played, by the model."""
        self._added += 1
        mark = Mark(f"{label}-{self._added}")
        self._pending.append(_Pending(mark.id, after_index, due_at))
        return mark

    def confirm(self, mark_id: str) -> int | None:
        """The frames of the call that are proven to be played, this mark's and those before it.

        None for an unknown id (cleared, or forged), which changes nothing.
        """
        if not any(mark.id == mark_id for mark in self._pending):
            return None
        self.proven = True
        while (mark := self._pending.popleft()).id != mark_id:
            pass
        return mark.after_index

    def drop(self) -> None:
        """The network was told to clear: those that are pending prove nothing any more."""
        self._pending.clear()

    def awaited_until(self, mark_id: str | None) -> float | None:
        """Until when this mark is waited for; None when it came back, or on a network that sends none back."""
        if not self.proven:
            return None
        return next((mark.due_at + MARK_GRACE_S for mark in self._pending if mark.id == mark_id), None)

    def overdue_index(self, now: float) -> int | None:
        """The frame index that the far end has not passed, when a mark is missing for longer than the grace."""
        if not self.proven:
            return None
        return min((mark.after_index for mark in self._pending if now > mark.due_at + MARK_GRACE_S), default=None)
