"""The tables of docs/capacity.md, from the inputs: regenerated, never edited."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from load_tests.capacity import model, simulation
from load_tests.capacity.inputs import Given, Inputs

DOCUMENT = Path("docs/capacity.md")
SCALES = (1_000, 10_000, 100_000)
BEGIN, END = "<!-- computed: {name} -->", "<!-- end: {name} -->"


def tables(given: Inputs) -> dict[str, str]:
    """Every computed part of the document by its name."""
    return {
        "standing": standing(given),
        "needs": needs(given),
        "providers": provider_table(given),
        "breaks": breaks(given),
        "failures": failures(given),
        "cost": cost(given),
        "simulation": simulated(given),
        "inputs": inputs_table(given),
    }


def fill(text: str, parts: dict[str, str]) -> str:
    """The document with every computed part replaced. Raises ValueError for a part without its place."""
    for name, part in parts.items():
        begin, end = BEGIN.format(name=name), END.format(name=name)
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"docs/capacity.md needs {begin} and {end} once each")
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n{part}\n{end}{tail}"
    return text


def standing(given: Inputs) -> str:
    """What the figures are worth, first of all."""
    items = list(given.given())
    unknown = [name for name, item in items if item.status == "assumed" and "not measured yet" in item.source]
    unknown += [name for name, item in items if "not counted yet" in item.source]
    if not unknown:
        return "All costs of calls below are measured or counted; what is assumed is marked in the list of inputs."
    names = ", ".join(f"`{name}`" for name in unknown)
    return (
        f"**Provisional.** {len(unknown)} inputs are placeholders until they are measured: {names}. "
        "What depends on them shows the model's form, not this system's figures."
    )


def needs(given: Inputs) -> str:
    rate = model.bandwidth(given)
    small, large, price = given.nodes.small, given.nodes.large, given.prices_usd
    rows: list[list[str]] = []

    def row(name: str, values: Iterable[str]) -> None:
        rows.append([name, *values])

    small_plans = [model.node_plan(given, small, price.node_8_hour.value, n) for n in SCALES]
    large_plans = [model.node_plan(given, large, price.node_32_hour.value, n) for n in SCALES]
    row(f"nodes of {small.cores} cores (spare included)", (f"{plan.nodes:,}" for plan in small_plans))
    row(
        f"calls per node of {small.cores} cores (bound by)",
        (f"{plan.calls_per_node:,} ({plan.bound_by})" for plan in small_plans),
    )
    row(f"nodes of {large.cores} cores (spare included)", (f"{plan.nodes:,}" for plan in large_plans))
    row(
        f"calls per node of {large.cores} cores (bound by)",
        (f"{plan.calls_per_node:,} ({plan.bound_by})" for plan in large_plans),
    )
    row("session processes", (f"{model.session_processes(given, n):,}" for n in SCALES))
    row("ingress processes, at least", (f"{model.ingress_processes(given, n):,}" for n in SCALES))
    row("network to and from the carrier", (_bits((rate.carrier_in + rate.carrier_out) * n) for n in SCALES))
    row("network to and from STT and TTS", (_bits((rate.stt_out + rate.tts_in) * n) for n in SCALES))
    row("recording, to the object store", (_bits(rate.objects_out * n) for n in SCALES))
    row("Redis operations per second", (f"{model.redis_operations(given, n):,.0f}" for n in SCALES))
    row("Redis' one thread", (f"{model.redis_busy(given, n):.0%}" for n in SCALES))
    row("SQL statements per second", (_rate(model.per_second(given, given.operations.sql, n)) for n in SCALES))
    row(
        "object store requests per second",
        (_rate(model.per_second(given, given.operations.objects, n)) for n in SCALES),
    )
    flows = [model.flow(given, n) for n in SCALES]
    row("calls that end, and begin, per second", (f"{flow.ended_per_s:,.1f}" for flow in flows))
    row("calls to dial per second (all outbound)", (f"{flow.dialled_per_s:,.1f}" for flow in flows))
    row("calls that ring meanwhile", (f"{flow.ringing:,.0f}" for flow in flows))
    return table(["concurrent calls", *(f"{n:,}" for n in SCALES)], rows)


def provider_table(given: Inputs) -> str:
    limits = given.limits
    needs_of = [model.providers(given, n) for n in SCALES]
    rows = [
        ["Vonage: calls per second", f"{limits.vonage_cps.value:g}"]
        + [f"{need.cps:,.0f} ({_times(need.cps_ratio)})" for need in needs_of],
        ["Deepgram Flux: streams", f"{limits.flux_streams.value:g}"]
        + [f"{need.stt_streams:,.0f} ({_times(need.stt_ratio)})" for need in needs_of],
        ["Cartesia: active contexts", f"{limits.cartesia_contexts.value:g}"]
        + [f"{need.tts_contexts:,.0f} ({_times(need.tts_ratio)})" for need in needs_of],
        ["Groq: tokens per minute", f"{limits.groq_tokens_per_min.value:,.0f}"]
        + [f"{need.llm_tokens_per_min / 1e6:,.1f} M ({_times(need.llm_ratio)})" for need in needs_of],
    ]
    return table(["", "limit without a contract", *(f"{n:,} calls" for n in SCALES)], rows)


def breaks(given: Inputs) -> str:
    rows = [[name, f"{calls:,}"] for name, calls in model.breaking_points(given)]
    return table(["what", "reaches its limit at this many concurrent calls"], rows)


def failures(given: Inputs) -> str:
    per_process = int(given.platform.calls_per_session_process.value)
    per_node = model.node_plan(given, given.nodes.small, 0, SCALES[0]).calls_per_node
    ingress = given.platform.target_utilisation.value * 1000 / given.cpu_ms_per_call_second.ingress.value
    start = given.platform.replica_start_s.value
    ring = given.workload.ring_time_s.value
    rows = [
        [
            "a session process",
            f"{per_process}",
            f"recorded as `session_lost` with what was said; slots back in {start:g} s",
        ],
        [
            "an ingress process",
            f"up to {min(ingress, per_node):,.0f}",
            "their sockets close; sessions end and record them",
        ],
        [
            "Serve's proxy of a node",
            "0",
            "calls are at the ingress' own listener; webhooks and API requests fail there until Serve has restarted it",
        ],
        [
            "a node",
            f"up to {per_node:,}",
            "its sockets and sessions; the reconciler ends the records of calls without a lease",
        ],
        [
            "Redis",
            "0",
            "live calls go on; no call begins, no command reaches one, until it is back; then slots are rebuilt",
        ],
        [
            "SQL",
            "0",
            "live calls go on, turns of the outage are not recorded; no call begins; the reconciler writes the ends",
        ],
        ["Ray's head node", "those on it", "calls elsewhere go on; nothing scales or is replaced until it is back"],
        ["STT, LLM or TTS", "all, politely", "spoken apology and goodbye; `provider_failure`"],
        ["the carrier's webhooks", "0", f"calls that ring (for {ring:g} s) are not answered"],
    ]
    return table(["what dies", "calls lost", "what happens"], rows)


def cost(given: Inputs) -> str:
    found = model.minute_cost(given, SCALES[1])
    rows = [
        [name, f"{value:.5f}", f"{value / found.total:.1%}"]
        for name, value in [
            ("carrier (call and WebSocket leg)", found.carrier),
            ("speech to text", found.stt),
            ("language model", found.llm),
            ("text to speech", found.tts),
            (f"nodes of {given.nodes.small.cores} cores", found.nodes),
            ("SQL and Redis", found.stores),
            ("**sum**", found.total),
        ]
    ]
    return table([f"per minute of conversation, at {SCALES[1]:,} calls", "USD", "share"], rows)


def simulated(given: Inputs) -> str:
    """Deterministic by their seeds, and small enough to be run by a test."""
    work, plat = given.workload, given.platform
    durations = simulation.Durations(work.talk_time_s.value, work.talk_time_p99_s.value)
    blocking = [
        [
            f"{offered}",
            f"{slots} ({slots / offered - 1:+.0%})",
            f"{simulation.erlang_b(offered, slots):.2%}",
            f"{simulation.refused_share(offered_erlang=offered, slots=slots, durations=durations, calls=20_000):.2%}",
        ]
        for offered in (10, 100, 1000)
        for slots in (offered, simulation.slots_for(offered, 0.01), simulation.slots_for(offered, 0.001))
    ]
    bursts = [
        [f"x{factor:g} for {length_s} s"]
        + [
            format(
                simulation.burst_refused(
                    simulation.Burst(500, factor, length_s),
                    durations,
                    spare=spare,
                    replica_start_s=plat.replica_start_s.value,
                    calls_per_replica=int(plat.calls_per_session_process.value),
                ),
                ".1%",
            )
            for spare in (0, 0.1, 0.25)
        ]
        for factor, length_s in ((2.0, 60), (4.0, 60), (10.0, 20))
    ]
    drains = [
        [
            f"{calls:,}",
            *(f"{simulation.drain_s(durations, calls=calls, left_share=left):,.0f} s" for left in (0.1, 0.01, 0)),
        ]
        for calls in (100, 1000, 10_000)
    ]
    return "\n\n".join(
        [
            "Inbound calls that find no slot (Erlang B, and the simulation with log-normal lengths, which must agree):",
            table(["offered load (mean calls)", "slots", "refused: formula", "refused: simulated"], blocking),
            f"A burst on 500 steady calls, replicas starting in {plat.replica_start_s.value:g} s: share of its calls "
            "refused, by the free slots kept ahead:",
            table(["arrivals", "no spare slots", "10 % spare", "25 % spare"], bursts),
            "Draining: time until so many of the calls that were up are over, no new ones taken:",
            table(["calls", "90 %", "99 %", "all"], drains),
        ]
    )


def inputs_table(given: Inputs) -> str:
    rows = []
    for name, item in given.given():
        if isinstance(item, Given):
            value = f"{item.value:g}"
        else:
            value = (
                f"{item.per_call:g} per call + {item.per_turn:g} per turn + {item.per_second:g} per s "
                f"+ {item.busy_per_second:g} per s busy + {item.idle_per_second:g} per s idle"
            )
        rows.append([f"`{name}`", value, item.status, item.source])
    return table(["input", "value", "status", "source"], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def _bits(megabits: float) -> str:
    return f"{megabits / 1000:,.1f} Gbit/s" if megabits >= 1000 else f"{megabits:,.0f} Mbit/s"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _times(ratio: float) -> str:
    return "within" if ratio <= 1 else f"x{ratio:,.0f}" if ratio >= 10 else f"x{ratio:.1f}"
