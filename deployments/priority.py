"""Open calls before everything else that wants the processor."""

from __future__ import annotations

import contextlib
import os

import psutil
import structlog

MEDIA_NICENESS = 0
"""Ray starts every worker at 15 (`RAY_worker_niceness`), a media process like one that is still importing."""

log = structlog.get_logger()


def prefer_calls(niceness: int = MEDIA_NICENESS) -> bool:
    """Raise this process above Ray's other workers, for the end of a media replica's start.

    A roll-over starts a dozen processes, each with seconds of imports; at equal niceness they share the processor with
    the calls. Only root or CAP_SYS_NICE may lower a niceness: elsewhere this changes nothing and returns False.
    """
    try:
        # Linux counts niceness by thread; later threads inherit it from the one that starts them.
        for thread in psutil.Process().threads():
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.setpriority(os.PRIO_PROCESS, thread.id, niceness)
    except (PermissionError, psutil.Error) as error:
        log.info("media keeps the niceness of other workers: grant CAP_SYS_NICE to prefer it", error=str(error))
        return False
    return True
