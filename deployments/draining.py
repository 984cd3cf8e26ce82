"""Being drained: how a replica learns of it, and how its sockets outlive it.

Serve gives user code no sign of draining, and behind HAProxy it closes every WebSocket of a draining replica with code
1012 once `RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S` is over, whatever `graceful_shutdown_timeout_s` says (Ray
2.60, `_drain_behind_haproxy`; it means to close the listener, and uvicorn's shutdown closes the sockets with it). Both
are mended here, in one place, with what the installed versions offer; `tests/unit/test_draining.py` fails when they
change.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

SHUTDOWN_COROUTINE = "_perform_graceful_shutdown"
"""The replica's own drain, which runs as a task of the event loop that it shares with user code."""


def shutdown_began() -> bool:
    """True once Serve drains the replica whose event loop this is.

    Works where user code shares the replica's loop (`RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0`, which the shipped
    configuration sets); elsewhere it stays False. Looks at every task of the loop: for once a second, not per frame.
    """
    return any(getattr(task.get_coro(), "__name__", "") == SHUTDOWN_COROUTINE for task in asyncio.all_tasks())


def keep_sockets_while_draining() -> None:
    """From here on, draining closes this process's listener and lets its open sockets end by themselves. Idempotent."""
    # Servers and connections that exist already use the class: so its method is replaced, not the class.
    WebSocketsSansIOProtocol.shutdown = _shut_down_unless_open  # type: ignore[method-assign,assignment]


_shut_down = WebSocketsSansIOProtocol.shutdown


def _shut_down_unless_open(socket: WebSocketsSansIOProtocol) -> None:
    if not socket.handshake_complete or socket.close_sent:
        _shut_down(socket)
    # Else it stays: uvicorn waits until its connections are gone, and Serve, which counts each as an ongoing request,
    # up to `graceful_shutdown_timeout_s`. That, and nothing shorter, now bounds a call on a draining replica.
