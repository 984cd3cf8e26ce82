"""The query of `/v2/listen`, checked as Flux checks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multidict import MultiMapping

from serve_app.simulators.flux_turns import Thresholds

_RATES = (8000, 16000, 24000, 44100, 48000)
MULTILINGUAL = "flux-general-multi"
_LANGUAGES = frozenset({"en", "es", "fr", "de", "hi", "ru", "pt", "ja", "it", "nl"})
"""Of the multilingual model."""
_PARAMETERS = frozenset(
    {"model", "encoding", "sample_rate", "eot_threshold", "eager_eot_threshold", "eot_timeout_ms", "keyterm", "tag"}
    | {"language_hint", "numerals", "profanity_filter", "redact", "mip_opt_out"}
)


class RejectedError(Exception):
    """A handshake parameter that Flux answers with HTTP 400."""


@dataclass(frozen=True, slots=True)
class FluxParameters:
    """`call_id` is the `tag`: it says whose script this is."""

    encoding: str
    rate_hz: int
    call_id: str
    thresholds: Thresholds
    language_hints: tuple[str, ...] | None
    """None: the English model, which takes none."""


def _number(query: Mapping[str, str], name: str, low: float, high: float) -> float | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        raise RejectedError(f"{name}: not a number") from None
    if not low <= value <= high:
        raise RejectedError(f"{name}: must be between {low} and {high}")
    return value


def check_languages(hints: Sequence[object]) -> None:
    """Raises RejectedError for a language that the multilingual model does not know. A region (`en-GB`) is ignored."""
    for hint in hints:
        if str(hint).partition("-")[0] not in _LANGUAGES:
            raise RejectedError(f"language_hint: no language {hint!r}")


def read_parameters(query: MultiMapping[str]) -> FluxParameters:
    """Raises RejectedError with the text of the `dg-error` header."""
    unknown = sorted(set(query) - _PARAMETERS)
    if unknown:
        raise RejectedError(f"unknown query parameter {unknown[0]}")
    model = query.get("model")
    if model not in ("flux-general-en", MULTILINGUAL):
        raise RejectedError("model: no such model on /v2/listen")
    hints = tuple(query.getall("language_hint", []))
    if hints and model != MULTILINGUAL:
        raise RejectedError(f"language_hint: only the model {MULTILINGUAL} takes it")
    check_languages(hints)
    encoding = query.get("encoding", "")
    if encoding not in ("linear16", "mulaw"):
        raise RejectedError("encoding: this stand-in hears linear16 and mulaw")
    rate = _number(query, "sample_rate", 8000, 48000)
    if rate is None or int(rate) not in _RATES:
        raise RejectedError("sample_rate: must be one of 8000, 16000, 24000, 44100, 48000")
    eot = _number(query, "eot_threshold", 0.5, 1.0)
    eager = _number(query, "eager_eot_threshold", 0.3, 0.9)
    timeout_ms = _number(query, "eot_timeout_ms", 500, 60000)
    thresholds = Thresholds(0.7 if eot is None else eot, eager, 5.0 if timeout_ms is None else timeout_ms / 1000)
    if eager is not None and eager > thresholds.eot:
        raise RejectedError("eager_eot_threshold: must not be greater than eot_threshold")
    terms = query.getall("keyterm", [])
    if len(terms) > 100 or any(not term.strip() or len(term) > 100 for term in terms):
        raise RejectedError("keyterm: at most 100 terms of 1 to 100 characters")
    languages = hints if model == MULTILINGUAL else None
    return FluxParameters(encoding, int(rate), query.get("tag", ""), thresholds, languages)
