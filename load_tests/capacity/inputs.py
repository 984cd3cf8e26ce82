"""The model's inputs: read from `inputs.yaml`, every value with its source and what it is worth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

INPUTS = Path(__file__).with_name("inputs.yaml")

Status = Literal["measured", "counted", "documented", "assumed"]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Given(_Document):
    """One number and where it comes from."""

    value: float = Field(ge=0)
    status: Status
    source: str


class Operations(_Document):
    """Operations on one store: per call, callee turn, second of a call; per second of a busy, of an idle platform."""

    per_call: float = Field(ge=0)
    per_turn: float = Field(ge=0)
    per_second: float = Field(ge=0)
    busy_per_second: float = Field(ge=0)
    idle_per_second: float = Field(ge=0)
    status: Status
    source: str


class Workload(_Document):
    talk_time_s: Given
    talk_time_p99_s: Given
    ring_time_s: Given
    answer_rate: Given
    agent_speaks: Given
    turns_per_min: Given
    prompt_tokens_per_turn: Given
    reply_tokens_per_turn: Given
    spoken_chars_per_s: Given


class Cpu(_Document):
    """Milliseconds of CPU per second of one call, by process."""

    haproxy: Given
    ingress: Given
    session: Given
    other: Given

    @property
    def total_ms(self) -> float:
        return self.haproxy.value + self.ingress.value + self.session.value + self.other.value


class Memory(_Document):
    call_mb: Given
    session_process_mb: Given
    node_base_mb: Given


class Platform(_Document):
    node_base_cores: Given
    target_utilisation: Given
    spare_nodes_share: Given
    calls_per_session_process: Given
    replica_start_s: Given
    session_beat_s: Given
    scripts_per_beat: Given


class AllOperations(_Document):
    redis: Operations
    sql: Operations
    objects: Operations


class Stores(_Document):
    redis_cores: Given
    redis_us_per_operation: Given
    redis_us_per_reserve: Given
    redis_us_per_reserve_replica: Given
    sql_statements_per_s: Given


class Limits(_Document):
    vonage_cps: Given
    flux_streams: Given
    cartesia_contexts: Given
    cartesia_speed: Given
    groq_tokens_per_min: Given


class Prices(_Document):
    node_8_hour: Given
    node_32_hour: Given
    stores_hour_per_1000_calls: Given
    carrier_min: Given
    carrier_websocket_min: Given
    stt_min: Given
    tts_million_chars: Given
    llm_million_prompt_tokens: Given
    llm_million_reply_tokens: Given


class NodeShape(_Document):
    cores: int
    memory_gb: float
    network_gbit: float


class Nodes(_Document):
    small: NodeShape
    large: NodeShape


class Inputs(_Document):
    workload: Workload
    cpu_ms_per_call_second: Cpu
    memory: Memory
    platform: Platform
    operations: AllOperations
    stores: Stores
    limits: Limits
    prices_usd: Prices
    nodes: Nodes

    def given(self) -> Iterator[tuple[str, Given | Operations]]:
        """Every input with its dotted name, in the order of the file."""
        for section in type(self).model_fields:
            part = getattr(self, section)
            for name in type(part).model_fields:
                value = getattr(part, name)
                if isinstance(value, Given | Operations):
                    yield f"{section}.{name}", value


def load_inputs(path: Path = INPUTS) -> Inputs:
    """Raises pydantic.ValidationError for a key that is missing or unknown."""
    return Inputs.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
