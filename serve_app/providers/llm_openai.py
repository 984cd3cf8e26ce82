"""OpenAI, and every server that speaks its chat completions, through the official SDK.

Chat completions is the portable path: Ray Serve LLM, vLLM and Ollama serve it; the Responses API they do not, or only
in part.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import openai

from serve_app.provider_settings import OpenAISettings
from serve_app.providers.base import ChatEvent, ChatRequest
from serve_app.providers.chat_stream import KEEP_CONNECTED_S, ChatStreamer, Dialect

NAME = "openai"
_MAX_CONNECTIONS = 1000
_MAX_IDLE_CONNECTIONS = 100


class OpenAIModel:
    """One SDK client, and so one connection pool and one TLS context, per process."""

    name = NAME

    def __init__(self, settings: OpenAISettings, api_key: str) -> None:
        # The SDK's default timeout is 600 s.
        timeout = httpx2.Timeout(settings.token_timeout_s, connect=settings.connect_timeout_s)
        limits = httpx2.Limits(
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=_MAX_IDLE_CONNECTIONS,
            keepalive_expiry=KEEP_CONNECTED_S,
        )
        self._client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=settings.base_url,
            timeout=timeout,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpx2Client(limits=limits, timeout=timeout),
        )
        # OpenAI's own reasoning models refuse the old name `max_tokens`; the compatible servers know both.
        dialect = Dialect(
            name=NAME,
            status_errors=(openai.APIStatusError,),
            api_errors=(openai.OpenAIError,),
            transport_errors=(httpx2.HTTPError, httpx2.StreamError),
            base_path="",
            stream_class=openai.AsyncStream[object],
            limit_parameter="max_completion_tokens",
            parameters={"stream_options": {"include_usage": True}},
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
