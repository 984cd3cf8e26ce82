"""What a benchmark finds, and how it is printed: aim, figure, spread, PASS or MISS."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

ROUNDS = 7


@dataclass(frozen=True, slots=True)
class Figure:
    """One benchmark. The figure is the median of its rounds, the spread their range."""

    name: str
    aim: float
    unit: str
    rounds: list[float]
    at_least: bool = False
    """More is better (a rate); otherwise less is (a cost)."""

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def passed(self) -> bool:
        return self.median >= self.aim if self.at_least else self.median <= self.aim

    def cells(self) -> tuple[str, str, str, str, str]:
        low, high = min(self.rounds), max(self.rounds)
        sign = ">=" if self.at_least else "<="
        return (
            self.name,
            f"{sign} {_number(self.aim)} {self.unit}",
            f"{_number(self.median)} {self.unit}",
            f"{_number(low)} - {_number(high)}",
            "PASS" if self.passed else "MISS",
        )


def cpu_us(work: Callable[[], object], calls: int, *, per: int = 1) -> list[float]:
    """Microseconds of this thread's CPU time per unit, once per round; one call of `work` does `per` units.

    CPU time, not wall time: what a neighbour on the machine takes is not this code's cost.
    """
    work()
    figures = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(calls):
            work()
        figures.append((time.thread_time() - start) / (calls * per) * 1e6)
    return figures


def print_figures(title: str, figures: Sequence[Figure]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("benchmark", "aim", "figure", "spread", ""):
        table.add_column(column, justify="left" if column in ("benchmark", "") else "right", no_wrap=True)
    for figure in figures:
        table.add_row(*figure.cells())
    # A log or a pipe has no width: a table that is cut off there tells nothing.
    Console(width=max(Console().width, 120)).print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value < 100 else f"{value:.0f}"
