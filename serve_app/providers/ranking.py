"""One stage's clients in the order in which they are asked, and which of them failed lately. Sans-I/O."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Ranking(Generic[_T]):
    """Shared by the calls of a process, so that one call's failure spares the others the same wait."""

    def __init__(self, *clients: _T, avoid_failed_s: float = 30.0) -> None:
        """`avoid_failed_s`: so long after a failure the client comes after the others."""
        if not clients:
            raise ValueError("a stage needs a provider")
        self.clients = clients
        self._avoid_failed_s = avoid_failed_s
        self._failed_at: dict[int, float] = {}

    def best(self, now: float, *, without: Collection[_T] = ()) -> _T | None:
        """The first that has not failed lately, else the first; None where all are in `without`. `now`: monotonic."""
        left = [client for client in self.clients if not any(client is other for other in without)]
        return next((client for client in left if not self._in_doubt(client, now)), left[0] if left else None)

    def failed(self, client: _T, now: float) -> None:
        self._failed_at[id(client)] = now

    def _in_doubt(self, client: _T, now: float) -> bool:
        failed_at = self._failed_at.get(id(client))
        return failed_at is not None and now - failed_at < self._avoid_failed_s
