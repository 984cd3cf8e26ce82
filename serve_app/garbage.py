"""Python's cyclic garbage collector, set for processes that carry live audio."""

from __future__ import annotations

import gc

_YOUNG = 20_000
"""Allocations between collections of the young; Python's 700 run one every few frames of a busy process."""


def settle() -> None:
    """Call once, when everything long-lived is loaded.

    The hundreds of thousands of objects of imported modules are set aside, so that a full collection, which calls wait
    for, looks only at what calls made: 2 ms instead of 180 (`load_tests.micro.garbage`).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)
