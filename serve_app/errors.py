"""Errors that callers act on. Each says what went wrong, where, and what to do."""

from __future__ import annotations

from typing import Literal

Stage = Literal["stt", "llm", "tts", "telephony"]


class ParleyError(Exception):
    """Base of every error that Parley raises on purpose."""


class SettingsError(ParleyError):
    """The configuration is wrong. The message names the key and the remedy."""


class UnavailableError(ParleyError):
    """A service that Parley needs (SQL, Redis, object store) does not answer. The message names it and its URL."""


class AtCapacityError(ParleyError):
    """No slot for another call. The caller refuses or waits; it never queues without a deadline."""


class ProviderError(ParleyError):
    """A provider failed a request or a stream.

    `retryable` is True when the same request may succeed on another try or another provider (timeouts, 429, 5xx,
    dropped sockets); False when it cannot (401, unknown model, rejected parameters).
    """

    def __init__(
        self, stage: Stage, provider: str, message: str, *, retryable: bool, status: int | None = None
    ) -> None:
        super().__init__(f"{stage}/{provider}: {message}")
        self.stage: Stage = stage
        self.provider = provider
        self.retryable = retryable
        self.status = status
