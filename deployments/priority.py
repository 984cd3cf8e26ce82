"""Open calls before everything else that wants the processor, and calls that begin before what can wait."""

from __future__ import annotations

import contextlib
import os

import psutil
import structlog

MEDIA_NICENESS = 0
"""Ray starts every worker at 15 (`RAY_worker_niceness`), a media process like one that is still importing."""
WEBHOOK_NICENESS = 5
"""Of ControlApi: below the calls that are up, above everything else. At Ray's 15, on a full core, the answer webhook
waits until the network gives the call up (measured: 504 for most of 100 callers)."""

log = structlog.get_logger()


def prefer_calls(niceness: int = MEDIA_NICENESS) -> bool:
    """Raise this process above Ray's other workers, for the end of a replica's start.

    A roll-over starts a dozen processes, each with seconds of imports; at equal niceness they share the processor with
    the calls. Only root or CAP_SYS_NICE may lower a niceness: elsewhere this changes nothing and returns False.
    """
    try:
        # Linux counts niceness by thread; later threads inherit it from the one that starts them.
        for thread in psutil.Process().threads():
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.setpriority(os.PRIO_PROCESS, thread.id, niceness)
    except (PermissionError, psutil.Error) as error:
        log.info("calls get no precedence over other workers: grant CAP_SYS_NICE for it", error=str(error))
        return False
    return True
