"""`python -m load_tests.peers.check`: real calls to a peer, to see that it is set up right before it is measured.

Starts the stand-ins and the peer, makes calls with three turns and a barge-in in the second answer, and says whether
the words arrived, whether `clear` came and whether every frame had its size. It also prints the peer's CPU time, which
is a rough figure: load side, stand-ins and peer share the machine's cores here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from serve_app.simulators.callee import CalleeBehaviour
from serve_app.simulators.callee_actor import Callee, share_words
from serve_app.simulators.leg import LegOptions, MediaEndpoint, MediaLeg
from serve_app.simulators.speech import speak_async
from serve_app.simulators.vad import segment_speech

PIPECAT = Path(__file__).parent / "pipecat"
GREETING = "Hello from Riverside Dental. This is Ava. How can I help you today?"
SYSTEM_PROMPT = """You are Ava, who answers the phone of Riverside Dental. Answer from these facts only.
- The practice is at 12 Mill Street, next to the public library, and the entrance is on the left side of the building.
- Parking is free behind the building for two hours, and a ticket machine stands beside the entrance to the yard.
- Please bring your insurance card and a list of the medicines that you take, whatever they are for.
"""
SAID = ("Where is the practice?", "Excuse me, where can I park my car?", "What should I bring with me?")
"""The second one is said into the answer to the first."""
START_S = 60.0
_EXIT_S = 10.0
_RATE_HZ = 16_000


@contextmanager
def _process(command: Sequence[str], cwd: Path | None = None) -> Iterator[dict[str, Any]]:
    """A child that prints one JSON line when it is ready. Raises RuntimeError when it ends before."""
    child = subprocess.Popen(command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"{command[1]} ended with code {child.wait()} before it was ready")
        yield json.loads(line)
    finally:
        child.terminate()
        try:
            child.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


async def _tell(http: httpx.AsyncClient, call_id: str) -> None:
    """Give the stand-in of another process the callee's words, ahead of the call: one text per speech segment."""
    for text in SAID:
        speech = await speak_async(text, voice=_behaviour().voice, rate_hz=_RATE_HZ)
        texts = share_words(text, segment_speech(speech.pcm, _RATE_HZ))
        (await http.post(f"/sim/calls/{call_id}/script", json={"texts": texts})).raise_for_status()


def _warm_up() -> CalleeBehaviour:
    """One question and its answer: what a process loads only at its first call is no cost of a call."""
    steps = [{"say": SAID[0]}, {"hang_up": True, "pause_ms": 600}]
    return CalleeBehaviour.model_validate({"steps": steps, "max_duration_s": 60})


def _behaviour() -> CalleeBehaviour:
    steps: list[dict[str, Any]] = [
        {"say": SAID[0]},
        {"barge_in": SAID[1], "after_ms": 1200},
        {"say": SAID[2]},
        {"hang_up": True, "pause_ms": 1000},
    ]
    return CalleeBehaviour.model_validate({"steps": steps, "max_duration_s": 90})


async def _call(url: str, call_id: str, behaviour: CalleeBehaviour, delay_s: float = 0) -> MediaLeg:
    await asyncio.sleep(delay_s)
    callee = Callee(behaviour)
    leg = MediaLeg(MediaEndpoint(url, _RATE_HZ, {"call_id": call_id}), LegOptions(keep_audio=False))
    await callee.prepare(_RATE_HZ)
    line = asyncio.create_task(leg.run())
    try:
        await callee.act(leg, call_id)
    finally:
        leg.close()
        await line
    return leg


def _said(requests: list[dict[str, Any]]) -> dict[str, int]:
    """How many requests to the language model ended with each of the callee's sentences."""
    last = [next((m["content"] for m in reversed(r["messages"]) if m["role"] == "user"), "") for r in requests]
    # The warm-up call asked the first one, too.
    return {words: last.count(words) - (words == SAID[0]) for words in SAID}


async def _run(arguments: argparse.Namespace, simulators: dict[str, Any], peer: dict[str, Any]) -> bool:
    process = psutil.Process(peer["pid"])
    async with httpx.AsyncClient(base_url=simulators["url"]) as http:
        call_ids = [f"check-{number}" for number in range(arguments.calls)]
        for call_id in call_ids:
            await _tell(http, call_id)
        await _tell(http, "warm-up")
        await _call(peer["websocket_url"], "warm-up", _warm_up())
        before = process.cpu_times()
        began = time.monotonic()
        calls = [
            _call(peer["websocket_url"], call_id, _behaviour(), number * arguments.spacing_s)
            for number, call_id in enumerate(call_ids)
        ]
        legs = await asyncio.gather(*calls)
        elapsed_s = time.monotonic() - began
        after = process.cpu_times()
        requests: list[dict[str, Any]] = (await http.get("/sim/llm/requests")).json()["requests"]
    said = _said(requests)
    call_s = sum(leg.tick for leg in legs) * 0.02
    cpu_s = after.user + after.system - before.user - before.system
    print(f"{len(legs)} calls, {call_s:.0f} call-seconds in {elapsed_s:.0f} s")
    print(
        f"frames to the phone {sum(leg.stats.frames_received for leg in legs)}, of a wrong size"
        f" {sum(leg.stats.wrong_size for leg in legs)}, clears per call {[len(leg.stats.clears_ms) for leg in legs]}"
    )
    print(f"questions that reached the language model: {said}")
    print(f"assistant, as the peer remembers it: {_assistant(requests)}")
    print(f"peer: {cpu_s * 1000 / call_s:.1f} ms of CPU per call-second, RSS {process.memory_info().rss / 1e6:.0f} MB")
    print(f"leg engine at worst {max(leg.stats.max_tick_late_ms for leg in legs):.0f} ms late")
    return all(
        leg.stats.wrong_size == 0 and leg.stats.clears_ms and leg.stats.end == "near_closed" for leg in legs
    ) and all(count == len(legs) for count in said.values())


def _assistant(requests: list[dict[str, Any]]) -> list[str]:
    longest: list[dict[str, Any]] = max((request["messages"] for request in requests), key=len, default=[])
    return [str(message["content"]) for message in longest if message["role"] == "assistant"]


def main() -> None:
    """Exit code 1 when a call did not go as it should."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.peers.check", description=__doc__)
    parser.add_argument("--calls", type=int, default=1)
    parser.add_argument("--spacing-s", type=float, default=0.3, help="between the starts of calls")
    arguments = parser.parse_args()
    python = PIPECAT / ".venv" / "bin" / "python"
    if not python.exists():
        raise SystemExit("the peer is not installed: run load_tests/peers/setup")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = folder / "simulators.yaml"
        config.write_text(yaml.safe_dump({"stt_keep_audio_calls": 0, "recognise": False}))
        prompt = folder / "prompt.txt"
        prompt.write_text(SYSTEM_PROMPT)
        stand_ins = [sys.executable, "-m", "serve_app.simulators", "--port", "0", "--config", str(config)]
        simulators = stack.enter_context(_process(stand_ins))
        server = [str(python), "server.py", "--simulators-url", simulators["url"], "--greeting", GREETING]
        peer = stack.enter_context(_process([*server, "--system-prompt-file", str(prompt)], PIPECAT))
        good = asyncio.run(_run(arguments, simulators, peer))
    print("PASS" if good else "FAIL")
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
