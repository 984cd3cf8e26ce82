"""What a text of somebody else may hold."""

from __future__ import annotations

PLAIN_TEXT = r"^[^\x00]*$"
"""A pattern for every text that is stored: PostgreSQL keeps no NUL."""
