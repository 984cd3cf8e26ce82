"""Structured logs: one JSON object a line on stderr, with phone numbers masked and secrets removed.

Masking happens in the last step before rendering, over every value and over formatted tracebacks, so that a library
that logs a number or a bearer token is covered as well.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from serve_app.settings import LogSettings

# E.164 with its plus, or 10-15 bare digits (the form on Vonage's wire) that are not a part of a longer word, of a uuid,
# of a time or of a number with a fraction.
_NUMBER = re.compile(r"\+[1-9]\d{6,14}|(?<![\w+-])(?<!\d[.:])\d{10,15}(?![\w-]|[.:]\d)")
_SECRETS = (
    (re.compile(r"\bpk_[A-Za-z0-9_-]{8,}"), "pk_[removed]"),
    (re.compile(r"(?i)\b(bearer)\s+[A-Za-z0-9._~+/=-]{8,}"), r"\1 [removed]"),
    (re.compile(r"(/media/[^/\s?\"']+)/[^/\s?\"']+"), r"\1/[removed]"),
    (re.compile(r"([?&]sig=)[^&\s\"']+"), r"\1[removed]"),
)
# Libraries that log every request with its URL, or every SQL statement with its parameters, at INFO or DEBUG.
_CHATTY = (
    "httpx",
    "httpcore",
    "aiosqlite",
    "sqlalchemy.engine",
    "websockets",
    "asyncio",
    "vonage_http_client.http_client",
)


def mask(number: str) -> str:
    """The last four digits of a phone number, for logs and messages: `***1234`."""
    digits = re.sub(r"\D", "", number)
    return f"***{digits[-4:]}" if len(digits) >= 7 else "***"


def scrub(text: str) -> str:
    """`text` with every phone number masked and every known form of a secret removed."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return _NUMBER.sub(lambda match: mask(match.group()), text)


def _scrub_value(value: Any) -> Any:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {key: _scrub_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_scrub_value(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return scrub(str(value))


def scrub_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor that masks. It leaves structlog's own bookkeeping keys and the timestamp alone."""
    for key, value in event.items():
        if not key.startswith("_") and key != "timestamp":
            event[key] = _scrub_value(value)
    return event


def configure_logging(settings: LogSettings) -> None:
    """Send structlog and the standard library's loggers, masked, to stderr. Call once per process; repeats replace."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    renderer: list[structlog.types.Processor] = (
        [structlog.processors.format_exc_info, scrub_event, structlog.processors.JSONRenderer()]
        if settings.json_lines
        else [structlog.processors.format_exc_info, scrub_event, structlog.dev.ConsoleRenderer(colors=False)]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    handler.set_name("parley")
    root = logging.getLogger()
    root.handlers = [existing for existing in root.handlers if existing.get_name() != "parley"] + [handler]
    root.setLevel(settings.level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
