"""The arithmetic: what N concurrent calls need, and at how many calls each part reaches its limit. No clock, no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from load_tests.capacity.inputs import Inputs, NodeShape, Operations

FRAMES_PER_S = 50
FRAME_BYTES = 640  # 20 ms of linear16 at 16 kHz
TCP_IP_BYTES = 66  # Ethernet 14, IPv4 20, TCP 20 and timestamps 12
WS_TO_US_BYTES = 8  # a client masks its frames
WS_FROM_US_BYTES = 4
FRAMES_PER_PACKET = 3
"""Towards the network, bursts of the pacer share a packet (1,448 bytes hold two frames, a burst takes two packets)."""
BASE64 = 4 / 3
MEGA = 1e6


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Megabits per second of one call."""

    carrier_in: float
    carrier_out: float
    stt_out: float
    tts_in: float
    objects_out: float

    @property
    def total(self) -> float:
        return self.carrier_in + self.carrier_out + self.stt_out + self.tts_in + self.objects_out


def bandwidth(given: Inputs) -> Bandwidth:
    """From the wire formats: nothing is compressed, one TCP packet per incoming frame. STT and TTS carry TLS's some
    per cent more, which is left out."""
    speaks = given.workload.agent_speaks.value
    audio_bits = FRAMES_PER_S * FRAME_BYTES * 8 / MEGA
    burst_packets = math.ceil(FRAMES_PER_PACKET * (FRAME_BYTES + WS_FROM_US_BYTES) / 1448)
    out_bytes = FRAME_BYTES + WS_FROM_US_BYTES + burst_packets * TCP_IP_BYTES / FRAMES_PER_PACKET
    return Bandwidth(
        carrier_in=FRAMES_PER_S * (FRAME_BYTES + WS_TO_US_BYTES + TCP_IP_BYTES) * 8 / MEGA,
        carrier_out=FRAMES_PER_S * speaks * out_bytes * 8 / MEGA,
        stt_out=audio_bits * (1 + TCP_IP_BYTES / FRAME_BYTES),
        tts_in=audio_bits * speaks * BASE64,
        objects_out=audio_bits * (1 + speaks),
    )


@dataclass(frozen=True, slots=True)
class Flow:
    """What comes and goes while N calls are up."""

    ended_per_s: float
    dialled_per_s: float
    ringing: float


def flow(given: Inputs, calls: int) -> Flow:
    """Little's law, all calls outbound: each ended call is replaced by an answered one."""
    work = given.workload
    ended = calls / work.talk_time_s.value
    dialled = ended / work.answer_rate.value
    return Flow(ended_per_s=ended, dialled_per_s=dialled, ringing=dialled * work.ring_time_s.value)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """Nodes of one shape for N calls."""

    calls_per_node: int
    nodes: int
    bound_by: str
    cost_per_call_minute_usd: float


def node_plan(given: Inputs, shape: NodeShape, price_hour_usd: float, calls: int) -> NodePlan:
    plat, memory = given.platform, given.memory
    cores = (shape.cores - plat.node_base_cores.value) * plat.target_utilisation.value
    per_call_mb = memory.call_mb.value + memory.session_process_mb.value / plat.calls_per_session_process.value
    limits = {
        "CPU": cores * 1000 / given.cpu_ms_per_call_second.total_ms,
        "memory": (shape.memory_gb * 1024 * 0.8 - memory.node_base_mb.value) / per_call_mb,
        "network": shape.network_gbit * 1000 * 0.5 / bandwidth(given).total,
    }
    bound_by = min(limits, key=lambda name: limits[name])
    per_node = int(limits[bound_by])
    needed = math.ceil(calls / per_node)
    nodes = needed + max(1, math.ceil(needed * plat.spare_nodes_share.value))
    return NodePlan(per_node, nodes, bound_by, nodes * price_hour_usd / 60 / calls)


def session_processes(given: Inputs, calls: int) -> int:
    return math.ceil(calls / given.platform.calls_per_session_process.value)


def ingress_processes(given: Inputs, calls: int) -> int:
    """An ingress replica is one event loop: one core, of which the calls may use the target's share."""
    per_process = given.platform.target_utilisation.value * 1000 / given.cpu_ms_per_call_second.ingress.value
    return math.ceil(calls / per_process)


def per_second(given: Inputs, operations: Operations, calls: int) -> float:
    """Operations per second of one store."""
    work = given.workload
    of_ends = operations.per_call * flow(given, calls).ended_per_s
    of_turns = operations.per_turn * calls * work.turns_per_min.value / 60
    of_platform = operations.idle_per_second + operations.busy_per_second
    return of_platform + of_ends + of_turns + operations.per_second * calls


def redis_operations(given: Inputs, calls: int) -> float:
    """The calls' own, the heartbeats of the session replicas, and the dialled calls that nobody answers."""
    plat = given.platform
    beats = session_processes(given, calls) * plat.scripts_per_beat.value / plat.session_beat_s.value
    flows = flow(given, calls)
    # Reserve twice, throttle, release: dialler of an attempt without an answer.
    unanswered = 4 * (flows.dialled_per_s - flows.ended_per_s)
    return per_second(given, given.operations.redis, calls) + beats + unanswered


def redis_busy(given: Inputs, calls: int) -> float:
    """Share of Redis' one thread.

    Two scripts add up the capacities of all session replicas, so that their cost grows with the number of replicas: the
    reservation of a slot (twice per dialled call), and the question for the total (once per replica and beat).
    """
    stores, replicas = given.stores, session_processes(given, calls)
    sum_us = stores.redis_us_per_reserve.value + stores.redis_us_per_reserve_replica.value * max(0, replicas - 10)
    sums_per_s = 2 * flow(given, calls).dialled_per_s + replicas / given.platform.session_beat_s.value
    plain = redis_operations(given, calls) * stores.redis_us_per_operation.value
    return (plain + sums_per_s * sum_us) / 1e6 / stores.redis_cores.value


@dataclass(frozen=True, slots=True)
class Providers:
    """What N calls need of each provider, and how many times its documented limit that is."""

    cps: float
    cps_ratio: float
    stt_streams: float
    stt_ratio: float
    tts_contexts: float
    tts_ratio: float
    llm_tokens_per_min: float
    llm_ratio: float


def providers(given: Inputs, calls: int) -> Providers:
    work, limits = given.workload, given.limits
    # A context is active while it synthesises, which is faster than it is played.
    contexts = calls * work.agent_speaks.value / limits.cartesia_speed.value
    tokens = calls * work.turns_per_min.value * (work.prompt_tokens_per_turn.value + work.reply_tokens_per_turn.value)
    cps = flow(given, calls).dialled_per_s
    return Providers(
        cps=cps,
        cps_ratio=cps / limits.vonage_cps.value,
        stt_streams=calls,
        stt_ratio=calls / limits.flux_streams.value,
        tts_contexts=contexts,
        tts_ratio=contexts / limits.cartesia_contexts.value,
        llm_tokens_per_min=tokens,
        llm_ratio=tokens / limits.groq_tokens_per_min.value,
    )


@dataclass(frozen=True, slots=True)
class MinuteCost:
    """US dollars per minute of a conversation, list prices."""

    nodes: float
    stores: float
    carrier: float
    stt: float
    llm: float
    tts: float

    @property
    def total(self) -> float:
        return self.nodes + self.stores + self.carrier + self.stt + self.llm + self.tts


def minute_cost(given: Inputs, calls: int) -> MinuteCost:
    work, price = given.workload, given.prices_usd
    turns = work.turns_per_min.value
    tokens_usd = (
        work.prompt_tokens_per_turn.value * price.llm_million_prompt_tokens.value
        + work.reply_tokens_per_turn.value * price.llm_million_reply_tokens.value
    ) / MEGA
    chars = 60 * work.agent_speaks.value * work.spoken_chars_per_s.value
    return MinuteCost(
        nodes=node_plan(given, given.nodes.small, price.node_8_hour.value, calls).cost_per_call_minute_usd,
        stores=price.stores_hour_per_1000_calls.value / 1000 / 60,
        carrier=price.carrier_min.value + price.carrier_websocket_min.value,
        stt=price.stt_min.value,
        llm=turns * tokens_usd,
        tts=chars * price.tts_million_chars.value / MEGA,
    )


def breaking_points(given: Inputs) -> list[tuple[str, int]]:
    """What reaches its limit at how many concurrent calls, the first one first."""
    checks: list[tuple[str, Callable[[int], bool]]] = [
        ("Vonage: calls per second of one account", lambda n: providers(given, n).cps_ratio > 1),
        ("Deepgram: streams of one pay-as-you-go project", lambda n: providers(given, n).stt_ratio > 1),
        ("Cartesia: contexts of one Scale plan", lambda n: providers(given, n).tts_ratio > 1),
        ("Groq: tokens per minute of one organisation", lambda n: providers(given, n).llm_ratio > 1),
        ("one 8-core node", lambda n: n > node_plan(given, given.nodes.small, 0, n).calls_per_node),
        ("one ingress process", lambda n: ingress_processes(given, n) > 1),
        ("Redis: one thread at 70 %", lambda n: redis_busy(given, n) > 0.7),
        (
            "SQL: one primary at 70 %",
            lambda n: per_second(given, given.operations.sql, n) > 0.7 * given.stores.sql_statements_per_s.value,
        ),
    ]
    found = [(name, _first(exceeded)) for name, exceeded in checks]
    return sorted([(name, calls) for name, calls in found if calls is not None], key=lambda item: item[1])


def _first(exceeded: Callable[[int], bool], most: int = 10_000_000) -> int | None:
    """The smallest number of calls for which this holds; all of these grow with the calls."""
    if not exceeded(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if exceeded(middle) else (middle, high)
    return high
