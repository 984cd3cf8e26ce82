"""`parley show CALL`: what a person sees of a call and of the time that its replies took."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from serve_app.api.schemas import LatencyView
from serve_app.cli.main import app
from serve_app.cli.show import BAR_COLUMNS, STAGES, print_call
from serve_app.conversation.latency import STAGES as MEASURED_STAGES

CALL = {"id": "call-1", "status": "completed", "outcome": "completed", "detail": None, "duration_s": 12.5}


def a_turn(index: int, text: str, **latency: Any) -> dict[str, Any]:
    return {
        "index": index,
        "role": "agent",
        "text": text,
        "heard_text": text,
        "started_ms": index * 10_000.0,
        "ended_ms": index * 10_000.0 + 500,
        "approximate": False,
        "interrupted": False,
        "latency": LatencyView(**latency).model_dump(),
    }


def a_reply(index: int, stt_ms: float, llm_ms: float | None, sentence_ms: float, **more: Any) -> dict[str, Any]:
    total = stt_ms + (llm_ms or 0) + sentence_ms + 90 + 10
    stages = {"stt_ms": stt_ms, "llm_ms": llm_ms, "sentence_ms": sentence_ms, "tts_ms": 90.0, "frame_ms": 10.0}
    return a_turn(index, f"Answer {index}.", **stages, total_ms=total, **more)


def shown(*turns: dict[str, Any], call: dict[str, Any] | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    print_call(console, call or CALL, list(turns))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def line_at(lines: list[str], at: str) -> str:
    (found,) = [line for line in lines if line.strip().startswith(at) and "█" in line]
    return found


def test_every_reply_has_a_line_with_its_stages_on_one_scale() -> None:
    lines = shown(a_turn(0, "Hello."), a_reply(1, 250, 40, 10), a_reply(2, 500, 200, 0))
    assert [line.split()[0] for line in lines if "█" in line] == ["10.0", "20.0"], "the opening answers nobody"
    short, long = line_at(lines, "10.0 s"), line_at(lines, "20.0 s")
    assert short.split()[2:8] == ["250", "40", "10", "90", "10", "400"]
    assert long.count("█") == BAR_COLUMNS and short.count("█") == BAR_COLUMNS // 2


def test_what_is_above_its_budget_is_marked_and_causes_are_told() -> None:
    over = {"stt_ms": "limit", "total_ms": "target"}
    lines = shown(a_reply(1, 320, 0, 10, over=over, speculative=True, causes=["llm_late", "failover: [llm] 429"]))
    cells = line_at(lines, "10.0 s").split()
    assert cells[2:4] == ["320!!", "~0"] and cells[7] == "430!"
    assert "10.0 s  llm_late; failover: [llm] 429" in lines


def test_a_stage_that_did_not_happen_is_a_dash_and_no_bar() -> None:
    cells = line_at(shown(a_reply(1, 250, None, 1200)), "10.0 s").split()
    assert cells[3] == "-"
    assert cells[8] == "-", "never confirmed"


def test_a_call_that_goes_on_has_a_status_and_no_outcome() -> None:
    call = {**CALL, "status": "in_progress", "outcome": None, "duration_s": None}
    assert shown(call=call) == ["call       call-1", "status     in_progress"]


def test_the_bar_has_the_stages_of_the_record() -> None:
    assert tuple(STAGES) == MEASURED_STAGES


class Platform(BaseHTTPRequestHandler):
    """The API's answers about one call."""

    def do_GET(self) -> None:
        turns = {"turns": [a_turn(0, "Hello."), a_reply(1, 250, 40, 10)]}
        known = {"/api/v1/calls/call-1": CALL, "/api/v1/calls/call-1/transcript": turns}
        found = known.get(self.path) if self.headers["Authorization"] == "Bearer pk_x" else None
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(json.dumps(found or {"title": "no such call", "remedy": "see GET /api/v1/calls"}).encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Platform)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PARLEY_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("PARLEY_API_KEY", "pk_x")
    yield
    server.shutdown()
    server.server_close()


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_call_is_shown_with_its_words_and_its_waterfall(platform: None) -> None:
    code, output = run("show", "call-1")
    assert code == 0
    assert "agent   Hello." in output and "outcome    completed" in output
    assert line_at(output.splitlines(), "10.0 s").split()[7] == "400"


def test_as_json_it_is_what_the_api_told(platform: None) -> None:
    code, output = run("show", "call-1", "--json")
    document = json.loads(output)
    assert (code, document["id"], document["turns"][1]["latency"]["total_ms"]) == (0, "call-1", 400)


def test_an_unknown_call_is_told_in_the_platforms_words(platform: None) -> None:
    code, output = run("show", "../calls")
    assert code == 1 and "no such call; see GET /api/v1/calls" in output
