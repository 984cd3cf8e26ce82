"""How an HTTP status of a provider becomes a ProviderError."""

from __future__ import annotations

from serve_app.errors import ProviderError, Stage

# 408 timeout, 425 too early, 429 rate limit, 498 Groq's flex capacity; the others below 500 blame the request.
_RETRYABLE = frozenset({408, 409, 425, 429, 498})


def is_retryable(status: int | None) -> bool:
    """Whether the same request may succeed later. An unknown status is a broken connection: yes."""
    return status is None or status >= 500 or status in _RETRYABLE


def status_error(stage: Stage, provider: str, status: int, message: str, *, remedy: str = "") -> ProviderError:
    """The error of an HTTP answer. `remedy` says what to do about an error that another try does not heal."""
    if status in (401, 403) and not remedy:
        remedy = f"check providers.{provider}.api_key"
    text = f"HTTP {status}: {message}" + (f"; {remedy}" if remedy else "")
    return ProviderError(stage, provider, text, retryable=is_retryable(status), status=status)
