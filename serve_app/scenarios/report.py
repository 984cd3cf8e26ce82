"""A played scenario for people: what failed, and the timeline of the call."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from serve_app.scenarios.record import CallRecord, Moment, Utterance
from serve_app.scenarios.runner import Played

_STYLES = {"callee": "green", "agent": "cyan", "event": "dim", "command": "dim", "fault": "red"}


def print_played(console: Console, played: Played, *, timeline: bool) -> None:
    """One line, and what failed. `timeline`: also of a scenario that passed."""
    verdict = "[green]ok    [/green]" if played.passed else "[red]FAILED[/red]"
    console.print(
        f"{verdict} {escape(played.scenario.name)}  [dim]{played.call_s:.1f} s of call in {played.took_s:.2f} s[/dim]",
        soft_wrap=True,
    )
    for failure in played.failures:
        console.print(f"       [red]{escape(failure)}[/red]", soft_wrap=True)
    if timeline or not played.passed:
        print_timeline(console, played.record)


def print_timeline(console: Console, record: CallRecord) -> None:
    """Who spoke when, the turn machine's events and commands, latencies, silences; seconds of the call."""
    for moment in record.moments:
        if moment.name != "CalleePartial":
            console.print(_line(moment, record), soft_wrap=True)
    for silence in record.silence.silences:
        console.print(f"       [dim]silence from {silence.start:.2f} to {silence.end:.2f} s[/dim]")


def _line(moment: Moment, record: CallRecord) -> Text:
    line = Text()
    line.append(f"{moment.at:9.2f}  ", style="dim")
    line.append(f"{moment.who:<8}", style=_STYLES[moment.who])
    told = f"{moment.name}  {moment.text}" if moment.name else moment.text
    line.append(told.rstrip(), style="dim" if moment.who in ("event", "command") else "")
    if moment.who == "agent":
        utterance = next((u for u in record.utterances if u.began == moment.at), None)
        if utterance is not None:
            line.append(_details(utterance), style="yellow")
    return line


def _details(utterance: Utterance) -> str:
    latency = utterance.latency
    told = [f"until {utterance.ended:.2f}"]
    if utterance.interrupted:
        told.append(f"cut; not heard: {utterance.text[len(utterance.heard_text) :].strip()}")
    if latency.total_ms is not None:
        told.append(f"{latency.total_ms:.0f} ms after the callee")
    return f"  [{'; '.join(told)}]"
