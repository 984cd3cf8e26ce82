"""Imported once, by the process from which all others are forked.

So a dialer is at work some milliseconds after its start, and a kill at a random moment does not hit its imports.
"""

from __future__ import annotations

from load_tests.dialer import control, network, process
from serve_app.dialing.rules import shipped

__all__ = ["control", "network", "process"]

shipped()
