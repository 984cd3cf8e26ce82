"""What a person sees of a call: the transcript as it happens, a latency waterfall per turn, the end."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serve_app.cli.placing import PlacedCall

STAGES = {
    "stt_ms": "yellow",
    "llm_ms": "magenta",
    "sentence_ms": "cyan",
    "tts_ms": "blue",
    "frame_ms": "green",
}
"""Color of each stage of the caller's wait, in their order. The names are those of the API (docs/latency.md)."""
MARKS = {"target": "!", "limit": "!!"}
BAR_COLUMNS = 20
"""The bar of the longest wait; with the figures beside it, a line of 80 columns."""


class LiveTranscript:
    """Prints turns and state changes of a call as its events arrive."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "turn":
            self._turn(event)
        elif kind == "end":
            self._console.print(f"[dim]the call ended: {event.get('outcome')}[/dim]")

    def _turn(self, event: dict[str, Any]) -> None:
        # An agent's turn is told twice; only at its end it is known what was heard of it.
        if event.get("state") != "ended":
            return
        agent = event.get("role") == "agent"
        line = Text()
        line.append(f"{float(event.get('started_ms', 0)) / 1000:6.1f} s  ", style="dim")
        line.append("agent   " if agent else "callee  ", style="cyan" if agent else "green")
        line.append(str(event.get("heard_text") or event.get("text") or ""))
        if event.get("interrupted"):
            line.append("  [interrupted]", style="red")
        if event.get("approximate"):
            line.append("  [approximate]", style="yellow")
        self._console.print(line)


def print_result(console: Console, placed: PlacedCall) -> None:
    """Waterfall, outcome, recording, and what did not go as it should."""
    print_call(console, placed.call, placed.turns)
    if placed.recording is not None:
        recording = placed.recording
        console.print(f"recording  {recording['path'] or recording['download_url']}", soft_wrap=True)
    media = (placed.network or {}).get("media")
    if media:
        console.print(
            f"callee     was connected for {media['duration_ms'] / 1000:.1f} s, heard {media['heard_ms'] / 1000:.1f} s "
            f"of the agent with {media['underruns']} underruns"
        )
    for problem in placed.problems:
        console.print(f"[red]not as expected: {problem}[/red]")


def print_transcript(console: Console, turns: list[dict[str, Any]]) -> None:
    """The turns of a call that the API told, as they would have been printed while they happened."""
    show = LiveTranscript(console)
    for turn in turns:
        show({**turn, "type": "turn", "state": "ended"})


def print_call(console: Console, call: dict[str, Any], turns: list[dict[str, Any]]) -> None:
    """The waterfall of the replies, and how the call ended."""
    replies = [turn for turn in turns if turn["latency"]["total_ms"] is not None]
    if replies:
        console.print(_waterfall(replies))
    for turn in turns:
        if causes := turn["latency"]["causes"]:
            console.print(f"{_at(turn)}  {'; '.join(causes)}", style="yellow", markup=False)
    console.print(f"call       {call['id']}")
    if call["outcome"] is None:
        console.print(f"status     {call['status']}")
    else:
        detail = f" ({call['detail']})" if call["detail"] else ""
        console.print(f"outcome    {call['outcome']}{detail}", markup=False)
    if call["duration_s"] is not None:
        console.print(f"duration   {call['duration_s']:.1f} s")


def _waterfall(replies: list[dict[str, Any]]) -> Table:
    """One line per reply: milliseconds by stage, and a bar that shows them on one scale."""
    table = Table(
        title="ms by stage, from the callee's last sound to the reply's first frame",
        caption="! above the target, !! above the limit (call.budgets); ~ began as a draft",
        title_justify="left",
        caption_justify="left",
        padding=(0, 1, 0, 0),
        box=None,
    )
    table.add_column("at", justify="right", no_wrap=True)
    for name, color in STAGES.items():
        table.add_column(name.removesuffix("_ms"), justify="right", no_wrap=True, style=color)
    table.add_column("total", justify="right", no_wrap=True)
    table.add_column("confirm", justify="right", no_wrap=True, style="dim")
    table.add_column("", no_wrap=True)
    longest = max(turn["latency"]["total_ms"] for turn in replies) or 1.0
    for turn in replies:
        latency = turn["latency"]
        figures = [_figure(latency, name) for name in (*STAGES, "total_ms", "confirm_ms")]
        table.add_row(_at(turn), *figures, _bar(latency, longest))
    return table


def _figure(latency: dict[str, Any], name: str) -> Text:
    if latency[name] is None:
        return Text("-")
    excess = latency["over"].get(name)
    draft = "~" if name == "llm_ms" and latency["speculative"] else ""
    return Text(f"{draft}{latency[name]:.0f}{MARKS.get(excess, '')}", style="bold red" if excess == "limit" else "")


def _bar(latency: dict[str, Any], longest: float) -> Text:
    """Every stage begins where the one before it ended; rounding does not add up along the bar."""
    bar, done_ms = Text(), 0.0
    for name, color in STAGES.items():
        done_ms += latency[name] or 0.0
        bar.append("█" * (round(done_ms / longest * BAR_COLUMNS) - len(bar)), style=color)
    return bar


def _at(turn: dict[str, Any]) -> str:
    return f"{turn['started_ms'] / 1000:.1f} s"
