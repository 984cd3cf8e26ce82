"""What the callee said last and hung up on: nobody is there for the answer, but it may have been an opt-out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import structlog

from serve_app.clock import Clock
from serve_app.conversation.tools import opt_out_reason
from serve_app.errors import ProviderError
from serve_app.providers.base import ChatEvent, ChatRequest, LanguageModel, ToolCall
from serve_app.providers.ranking import Ranking

TIMEOUT_S = 4.0
"""The end of the call's records waits for it."""

log = structlog.get_logger()


async def opt_out_in(request: ChatRequest, models: Ranking[LanguageModel], clock: Clock) -> str | None:
    """Ask the model as for an answer, and take of it only that the callee opted out: the reason it gives.

    None: it was no opt-out, or the model failed or took too long, which is logged.
    """
    model = models.best(clock.monotonic())
    if model is None or request.messages[-1].role != "user":
        return None
    # The interface promises that leaving early closes the HTTP stream.
    answer = cast("AsyncGenerator[ChatEvent, None]", model.stream(request))
    try:
        async with asyncio.timeout(TIMEOUT_S), aclosing(answer):
            async for event in answer:
                if isinstance(event, ToolCall) and (reason := opt_out_reason(event)) is not None:
                    return reason
    except (ProviderError, TimeoutError) as error:
        log.warning("the callee's last words were not understood", call_id=request.call_id, error=str(error))
    return None
