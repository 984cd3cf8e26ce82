"""Groq through its official SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import groq
import httpx

from serve_app.provider_settings import GroqSettings
from serve_app.providers.base import ChatEvent, ChatRequest
from serve_app.providers.chat_stream import KEEP_CONNECTED_S, ChatStreamer, Dialect

NAME = "groq"
# One stream per call in its reply; the SDK's default of 100 connections would queue the calls of a busy process.
_MAX_CONNECTIONS = 1000
_MAX_IDLE_CONNECTIONS = 100


class GroqModel:
    """One SDK client, and so one connection pool and one TLS context, per process."""

    name = NAME

    def __init__(self, settings: GroqSettings, api_key: str) -> None:
        timeout = httpx.Timeout(settings.token_timeout_s, connect=settings.connect_timeout_s)
        limits = httpx.Limits(
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=_MAX_IDLE_CONNECTIONS,
            keepalive_expiry=KEEP_CONNECTED_S,
        )
        self._client = groq.AsyncGroq(
            api_key=api_key,
            base_url=settings.base_url,
            timeout=timeout,
            max_retries=0,
            http_client=groq.DefaultAsyncHttpxClient(limits=limits, timeout=timeout),
        )
        # gpt-oss thinks before it speaks: thinking must be short, and must not come down the wire.
        parameters: dict[str, Any] = {"include_reasoning": False}
        if settings.reasoning_effort is not None:
            parameters["reasoning_effort"] = settings.reasoning_effort
        dialect = Dialect(
            name=NAME,
            status_errors=(groq.APIStatusError,),
            api_errors=(groq.GroqError,),
            transport_errors=(httpx.HTTPError, httpx.StreamError),
            base_path="/openai/v1",
            stream_class=groq.AsyncStream[object],
            limit_parameter="max_completion_tokens",
            parameters=parameters,
        )
        self._streamer = ChatStreamer(
            self._client,
            dialect,
            model=settings.model,
            temperature=settings.temperature,
            token_timeout_s=settings.token_timeout_s,
        )

    def stream(self, request: ChatRequest) -> AsyncIterator[ChatEvent]:
        """See LanguageModel.stream."""
        return self._streamer.stream(request)

    async def warm(self) -> None:
        """See LanguageModel.warm."""
        await self._streamer.warm()

    async def aclose(self) -> None:
        await self._client.close()
