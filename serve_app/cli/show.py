"""What a person sees of a call: the transcript as it happens, a latency waterfall per turn, the end."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serve_app.cli.placing import PlacedCall

STAGES = (
    ("end_of_turn_ms", "STT", "yellow"),
    ("llm_first_token_ms", "LLM", "magenta"),
    ("tts_first_audio_ms", "TTS", "blue"),
    ("first_frame_ms", "frame", "green"),
)
WATERFALL_COLUMNS = 34


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
    replies = [turn for turn in placed.turns if turn["latency"]["total_ms"] is not None]
    if replies:
        console.print(_waterfall(replies))
    call = placed.call
    console.print(f"call       {call['id']}")
    console.print(f"outcome    {call['outcome']}" + (f" ({call['detail']})" if call["detail"] else ""))
    if call["duration_s"] is not None:
        console.print(f"duration   {call['duration_s']:.1f} s")
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


def _waterfall(replies: list[dict[str, Any]]) -> Table:
    table = Table(
        title="ms: callee's last sound -> end of turn (STT) -> first token (LLM) -> first audio (TTS) -> first frame",
        title_justify="left",
    )
    table.add_column("at", justify="right", no_wrap=True)
    for _, title, color in STAGES:
        table.add_column(title, justify="right", no_wrap=True, style=color)
    table.add_column("total", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    longest = max(turn["latency"]["total_ms"] for turn in replies) or 1.0
    for turn in replies:
        latency = turn["latency"]
        bar = Text()
        for name, _, color in STAGES:
            bar.append("█" * round((latency[name] or 0) / longest * WATERFALL_COLUMNS), style=color)
        cells = [f"{latency[name]:.0f}" if latency[name] is not None else "-" for name, _, _ in STAGES]
        table.add_row(f"{turn['started_ms'] / 1000:.1f} s", *cells, f"{latency['total_ms']:.0f}", bar)
    return table
