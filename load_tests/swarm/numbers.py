"""Callers' numbers that nobody has: NANP 555-0100 to 555-0199 of every area code (never assigned)."""

from __future__ import annotations

AREA_CODES = tuple(code for code in range(201, 990) if code % 100 != 11 and code // 10 % 10 != 9)
PER_AREA_CODE = 100
NUMBERS = len(AREA_CODES) * PER_AREA_CODE


def caller_number(index: int) -> str:
    """The E.164 number of the caller `index`; they repeat after NUMBERS."""
    area, line = divmod(index % NUMBERS, PER_AREA_CODE)
    return f"+1{AREA_CODES[area]}55501{line:02d}"
