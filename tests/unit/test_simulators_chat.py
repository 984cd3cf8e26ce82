"""The chat stand-in: what it says, and its protocol on the wire."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
import yaml

from serve_app.conversation.agent import AgentDefinition
from serve_app.paths import configs_dir
from serve_app.simulators import brain
from serve_app.simulators.config import SimulatorConfig
from tests.unit.providers_fixtures import QUICK, Bed, running

pytest_plugins = ("tests.unit.providers_fixtures",)

DENTAL = AgentDefinition.model_validate(
    yaml.safe_load((configs_dir() / "agents" / "riverside-dental.yaml").read_text(encoding="utf-8"))
)
KEY = {"Authorization": "Bearer k"}


def ask(text: str) -> str:
    messages = [{"role": "system", "content": DENTAL.instructions()}, {"role": "user", "content": text}]
    assert brain.answer(messages) == brain.answer(messages)
    return brain.answer(messages)


@pytest.mark.parametrize(
    ("question", "fact"),
    [
        ("Where is the practice?", "twelve Harbor Street"),
        ("Is there parking?", "Parking is free"),
        ("Where can I park my car?", "Parking is free"),
        ("What should I bring?", "insurance card"),
        ("How long does a cleaning take?", "forty five minutes"),
        ("Can I move the appointment to another day?", "Thursday at two"),
        ("When are you open?", "from eight in the morning"),
        ("Which doctor will I see?", "Doctor Patel"),
    ],
)
def test_questions_are_answered_from_the_facts(question: str, fact: str) -> None:
    assert fact in ask(question)


def test_the_other_kinds_of_answers() -> None:
    assert "Goodbye." in ask("No that's all, goodbye.")
    assert "thank you" in ask("Yes that time works for me.").lower()
    assert "do not know" in ask("What is the capital of Mongolia?")
    assert all(fact not in ask("Yes, okay.") for fact in DENTAL.knowledge)


def body(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "- Parking is free."}, {"role": "user", "content": "Is there parking?"}]
    return {"model": "openai/gpt-oss-20b", "messages": messages, **fields}


async def post(bed: Bed, document: dict[str, Any], path: str = "/openai/v1") -> tuple[aiohttp.ClientResponse, str]:
    async with aiohttp.ClientSession() as session:
        response = await session.post(f"{bed.url}{path}/chat/completions", json=document, headers=KEY)
        return response, await response.text()


def chunks(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_groq_streams_reasoning_first_and_usage_last(bed: Bed) -> None:
    response, text = await post(bed, body(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-ratelimit-limit-requests"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(text)]
    first_content = next(i for i, delta in enumerate(deltas) if delta.get("content"))
    assert any("reasoning" in delta for delta in deltas[:first_content])
    assert not any("reasoning" in delta for delta in deltas[first_content:])
    last = chunks(text)[-1]
    assert last["choices"][0]["finish_reason"] == "stop" and last["x_groq"]["usage"]["total_tokens"] > 0


async def test_reasoning_can_be_left_out_but_still_counts_against_the_limit(bed: Bed) -> None:
    _, text = await post(bed, body(stream=True, include_reasoning=False, max_completion_tokens=5))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(text)]
    assert not any(delta.get("reasoning") or delta.get("content") for delta in deltas)
    assert chunks(text)[-1]["choices"][0]["finish_reason"] == "length"


async def test_openai_sends_usage_only_when_asked_in_a_chunk_without_choices(bed: Bed) -> None:
    document = body(model="gpt-5.4-mini", stream=True)
    _, plain = await post(bed, document, "/v1")
    assert all(chunk["choices"] and "x_groq" not in chunk for chunk in chunks(plain))
    _, text = await post(bed, {**document, "stream_options": {"include_usage": True}}, "/v1")
    assert chunks(text)[-1]["choices"] == [] and chunks(text)[-1]["usage"]["total_tokens"] > 0


async def test_a_whole_completion(bed: Bed) -> None:
    _, text = await post(bed, body())
    document = json.loads(text)
    assert "Parking is free." in document["choices"][0]["message"]["content"]
    assert document["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "llama-3.3-70b-versatile"}, 404, "model_not_found"),
        ({"reasoning_effort": "none"}, 400, None),
        ({"include_reasoning": True, "reasoning_format": "parsed"}, 400, None),
        ({"messages": []}, 400, None),
        ({"temperature": 3}, 400, None),
        ({"n": 2}, 400, None),
    ],
)
async def test_bad_requests(bed: Bed, fields: dict[str, Any], status: int, code: str | None) -> None:
    response, text = await post(bed, {**body(), **fields})
    assert response.status == status and json.loads(text)["error"]["code"] == code


async def test_the_rate_limit_of_the_organisation() -> None:
    async with running(SimulatorConfig(latency=QUICK, llm_requests_per_minute=2)) as bed:
        responses = [(await post(bed, body()))[0] for _ in range(3)]
    assert [response.status for response in responses] == [200, 200, 429]
    assert int(responses[2].headers["retry-after"]) > 0


async def test_a_fault_may_wait_for_the_request_that_contains_a_text(bed: Bed) -> None:
    bed.fault("llm", "unauthorized", containing="Is there parking?")
    other = [{"role": "user", "content": "When are you open?"}]
    statuses = [(await post(bed, document))[0].status for document in (body(messages=other), body(), body())]
    assert statuses == [200, 401, 200]


async def test_models(bed: Bed) -> None:
    async with aiohttp.ClientSession(headers=KEY) as session:
        listed = await (await session.get(f"{bed.url}/openai/v1/models")).json()
        names = [model["id"] for model in listed["data"]]
        assert "openai/gpt-oss-20b" in names and "llama-3.3-70b-versatile" not in names
        assert (await session.get(f"{bed.url}/openai/v1/models/llama-3.3-70b-versatile")).status == 404
        assert (await session.get(f"{bed.url}/v1/models/openai/gpt-oss-20b")).status == 200
