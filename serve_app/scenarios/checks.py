"""What was expected against what happened. Every problem is one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serve_app.conversation import turn_types as t
from serve_app.conversation.phrases import normalise_words
from serve_app.scenarios.document import Expect, Expectation, Scenario
from serve_app.scenarios.record import CallRecord, Utterance
from serve_app.scenarios.steps import Fault

UNEXPLAINED_S = 3.0
"""No longer silence without a recorded cause."""
_ROUNDING_S = 0.03
"""Times of the transcript are rounded, and frames last 20 ms."""


@dataclass(frozen=True, slots=True)
class _Window:
    """The time that a step's expectations are about. `anchor`: where `within_ms` begins."""

    start: float
    anchor: float
    end: float

    def has(self, at: float) -> bool:
        return self.start - _ROUNDING_S <= at < self.end - _ROUNDING_S


def problems(scenario: Scenario, record: CallRecord) -> list[str]:
    """Everything that is not as expected, and what is wrong in any call."""
    found = [*record.problems, *_unreached(scenario, record), *_unexplained_silence(record)]
    owner: int | None = None
    for number, step in enumerate(scenario.steps):
        if isinstance(step, Expect):
            window = _window(record, owner)
            if window is not None:
                found += [f"steps.{number}.expect: {text}" for text in _unmet(step.expect, window, record)]
        elif not isinstance(step, Fault):
            owner = number
    if scenario.expect is not None:
        whole = _Window(0.0, 0.0, float("inf"))
        found += [f"expect: {text}" for text in _unmet(scenario.expect, whole, record)]
    return found


def _window(record: CallRecord, owner: int | None) -> _Window | None:
    """From the callee's step on to the next; None for a step that was not reached."""
    later = [step.began for step in record.steps if owner is None or step.number > owner]
    end = min(later, default=float("inf"))
    if owner is None:
        return _Window(0.0, 0.0, end)
    own = next((step for step in record.steps if step.number == owner), None)
    if own is None:
        return None
    return _Window(own.began, own.began if own.ended is None else own.ended, end)


def _unreached(scenario: Scenario, record: CallRecord) -> Iterator[str]:
    acting = [n for n, step in enumerate(scenario.steps) if not isinstance(step, Expect | Fault)]
    reached = {step.number for step in record.steps}
    missing = [number for number in acting if number not in reached]
    if missing and not record.problems:
        how = record.result.outcome if record.result is not None else "nothing"
        yield f"steps.{missing[0]} was not reached: the call ended before ({how})"


def _unexplained_silence(record: CallRecord) -> Iterator[str]:
    for silence in record.silence.silences:
        if silence.seconds > UNEXPLAINED_S and not causes_within(record, silence.start, silence.end):
            yield f"{silence.seconds:.1f} s of silence from {silence.start:.1f} s on without a recorded cause"


def causes_within(record: CallRecord, start: float, end: float) -> list[str]:
    """What was recorded as the cause of a silence: while it lasted, or when it ended."""
    return [cause for at, cause in record.causes if start - _ROUNDING_S <= at <= end + _ROUNDING_S]


# --- one expectation --------------------------------------------------------------------------------------------------


def _unmet(expected: Expectation, window: _Window, record: CallRecord) -> list[str]:
    missing: list[str] = []
    if expected.of_utterance and not _utterances(expected, window, record):
        missing.append(f"no utterance of the agent with {_wanted(expected)}; {_said(window, record)}")
    if expected.tool is not None and not _tool_called(expected, window, record):
        missing.append(f"the model did not call {expected.tool} {dict(expected.arguments) or ''}".rstrip())
    if expected.draft is not None and not _drafted(expected.draft, window, record):
        missing.append(f"no draft was {expected.draft}")
    if expected.cause is not None and not any(expected.cause in cause for at, cause in record.causes if window.has(at)):
        told = ", ".join(cause for at, cause in record.causes if window.has(at)) or "none"
        missing.append(f"no cause {expected.cause!r} was recorded; there is {told}")
    if expected.opted_out is not None and bool(record.opt_outs) is not expected.opted_out:
        missing.append("the number was not put on the do-not-call list" if expected.opted_out else "it opted out")
    if expected.absent:
        return [] if missing else [f"there was {_wanted(expected)}, and none was expected"]
    return [*missing, *_end_and_silence(expected, window, record)]


def _end_and_silence(expected: Expectation, window: _Window, record: CallRecord) -> Iterator[str]:
    outcome = record.result.outcome if record.result is not None else None
    if expected.outcome is not None and outcome != expected.outcome:
        yield f"the outcome is {outcome}, not {expected.outcome}"
    limit = expected.silence_below_s
    if limit is not None:
        for silence in record.silence.silences:
            if silence.seconds >= limit and window.has(silence.start):
                yield f"{silence.seconds:.1f} s of silence from {silence.start:.1f} s on, not below {limit:g} s"


def _utterances(expected: Expectation, window: _Window, record: CallRecord) -> list[Utterance]:
    """Those that fit. What was heard, and whether to the end, is asked of what began before the step, too."""
    of_hearing = expected.heard is not None or expected.interrupted is not None
    return [
        utterance
        for utterance in record.utterances
        if (window.has(utterance.began) or (of_hearing and utterance.began < window.start < utterance.ended))
        and _fits(expected, utterance, window)
    ]


def _fits(expected: Expectation, utterance: Utterance, window: _Window) -> bool:
    words = normalise_words(utterance.text)
    return (
        (expected.text is None or normalise_words(expected.text) == words)
        and all(_contains(words, normalise_words(part)) for part in expected.contains)
        and (expected.regex is None or re.search(expected.regex, utterance.text) is not None)
        and (expected.heard is None or almost_equal(expected.heard, utterance.heard_text))
        and expected.interrupted in (None, utterance.interrupted)
        and expected.line in (None, utterance.line)
        and expected.language in (None, utterance.language)
        and (expected.within_ms is None or (utterance.began - window.anchor) * 1000 <= expected.within_ms)
    )


def _contains(words: Sequence[str], part: Sequence[str]) -> bool:
    return any(list(words[i : i + len(part)]) == list(part) for i in range(len(words) - len(part) + 1))


def almost_equal(text: str, other: str) -> bool:
    """Equal but for one word more or less at the end."""
    short, long = sorted((normalise_words(text), normalise_words(other)), key=len)
    return len(long) - len(short) <= 1 and long[: len(short)] == short


def _tool_called(expected: Expectation, window: _Window, record: CallRecord) -> bool:
    return any(
        isinstance(event, t.ToolCalled)
        and event.name == expected.tool
        and expected.arguments.items() <= dict(event.arguments).items()
        and window.has(at)
        for at, event, _ in record.turns
    )


def _drafted(expected: str, window: _Window, record: CallRecord) -> bool:
    commands = (command for at, _, commands in record.turns if window.has(at) for command in commands)
    if expected == "dropped":
        return any(isinstance(command, t.DropDraft) for command in commands)
    return any(isinstance(command, t.StartReply) and command.draft is not None for command in commands)


def _wanted(expected: Expectation) -> str:
    given = expected.model_dump(exclude_unset=True, exclude={"absent"})
    return ", ".join(f"{name}: {_short(value)}" for name, value in given.items())


def _short(value: object) -> str:
    return " + ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)


def _said(window: _Window, record: CallRecord) -> str:
    """What the agent did say in the window."""
    heard = [
        f"{utterance.line} {utterance.text!r} after {(utterance.began - window.anchor) * 1000:.0f} ms"
        + (f", heard up to {utterance.heard_text!r}" if utterance.interrupted else "")
        for utterance in record.utterances
        if utterance.ended > window.start and utterance.began < window.end
    ]
    return f"it said {'; '.join(heard)}" if heard else "it said nothing"
