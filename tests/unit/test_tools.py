"""Tools on the wire: the unmodified SDKs send them and put the calls together; the stand-in calls them, or refuses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.history import History
from serve_app.errors import ProviderError
from serve_app.providers.base import ChatEvent, ChatFinished, ChatRequest, Message, TextDelta, ToolCall
from serve_app.providers.llm_groq import GroqModel
from serve_app.providers.llm_openai import OpenAIModel
from serve_app.simulators import brain
from serve_app.simulators.chat_tools import Call, RefusedError, check_messages, check_tools
from tests.unit.api_support import AGENT
from tests.unit.providers_fixtures import Bed
from tests.unit.test_simulators_chat import body, chunks, post

pytest_plugins = ("tests.unit.providers_fixtures",)

TRILINGUAL = AgentDefinition.model_validate(
    AGENT | {"languages": {"es": {}, "fr": {}}, "knowledge": ["Parking is free."]}
)


@pytest.fixture(params=["groq", "openai"])
async def model(request: pytest.FixtureRequest, bed: Bed) -> AsyncIterator[Any]:
    made: Any = GroqModel(bed.groq(), "k") if request.param == "groq" else OpenAIModel(bed.openai(), "k")
    yield made
    await made.aclose()


async def answer(model: Any, request: ChatRequest) -> list[ChatEvent]:
    return [event async for event in model.stream(request)]


def said(*texts: str, agent: AgentDefinition = TRILINGUAL) -> History:
    history = History(agent)
    for text in texts:
        history.add_callee(text)
    return history


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("Just leave me alone, will you?", "opt_out", {"reason": "Just leave me alone, will you?"}),
        ("Déjenme en paz.", "opt_out", {"reason": "Déjenme en paz."}),
        ("I would feel better in Spanish.", "switch_language", {"language": "es"}),
        ("On peut parler français ?", "switch_language", {"language": "fr"}),
    ],
)
async def test_a_wish_in_any_words_becomes_a_tool_call(
    model: Any, text: str, name: str, arguments: dict[str, object]
) -> None:
    events = await answer(model, said(text).request("c"))
    assert [type(event) for event in events] == [ToolCall, ChatFinished]
    call, finished = events
    assert isinstance(call, ToolCall) and isinstance(finished, ChatFinished)
    assert (call.name, json.loads(call.arguments_json), finished.reason) == (name, arguments, "tool_calls")
    assert call.id.startswith("call_")


async def test_a_goodbye_is_said_and_then_the_call_is_ended(model: Any) -> None:
    events = await answer(model, said("That's all, goodbye.").request("c"))
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert "Goodbye" in text
    assert [event.name for event in events if isinstance(event, ToolCall)] == ["end_call"]
    assert isinstance(events[-1], ChatFinished)


async def test_after_the_switch_the_model_goes_on_in_the_new_language_and_calls_nothing(model: Any) -> None:
    history = said("In Spanish please.")
    history.add_tool_call("switch_language", {"language": "es"}, "done")
    history.switch_language("es")
    events = await answer(model, history.request("c"))
    assert not [event for event in events if isinstance(event, ToolCall)]
    assert "español" in "".join(event.text for event in events if isinstance(event, TextDelta))


async def test_a_question_calls_nothing(model: Any) -> None:
    events = await answer(model, said("Is there parking?").request("c"))
    assert "Parking is free." in "".join(event.text for event in events if isinstance(event, TextDelta))
    assert not [event for event in events if isinstance(event, ToolCall)]


async def test_an_agent_of_one_language_is_not_asked_to_switch(model: Any) -> None:
    alone = AgentDefinition.model_validate(AGENT)
    events = await answer(model, said("In Spanish please.", agent=alone).request("c"))
    assert not [event for event in events if isinstance(event, ToolCall)]


async def test_a_call_without_its_result_is_refused_as_by_the_providers(model: Any) -> None:
    call = ToolCall("call_1", "end_call", "{}")
    messages = (Message("user", "Goodbye."), Message("assistant", "", tool_calls=(call,)), Message("user", "Hello?"))
    with pytest.raises(ProviderError, match="tool_call_ids") as caught:
        await answer(model, ChatRequest("c", messages))
    assert (caught.value.status, caught.value.retryable) == (400, False)


# --- the stand-in itself

TOOLS = [{"type": "function", "function": {"name": "opt_out", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("path", ["/openai/v1", "/v1"])
async def test_a_call_comes_whole_from_groq_and_bit_by_bit_from_openai(bed: Bed, path: str) -> None:
    asked = body(
        model="openai/gpt-oss-20b" if path == "/openai/v1" else "gpt-5.4-mini",
        messages=[{"role": "user", "content": "Leave me alone."}],
        tools=TOOLS,
        stream=True,
    )
    _, text = await post(bed, asked, path)
    choices = [chunk["choices"][0] for chunk in chunks(text) if chunk["choices"]]
    pieces = [piece for choice in choices for piece in choice["delta"].get("tool_calls", [])]
    assert (len(pieces) == 1) == (path == "/openai/v1")
    assert {piece["index"] for piece in pieces} == {0}
    assert json.loads("".join(piece["function"].get("arguments", "") for piece in pieces)) == {
        "reason": "Leave me alone."
    }
    assert choices[-1]["finish_reason"] == "tool_calls"
    _, whole = await post(bed, {**asked, "stream": False}, path)
    message = json.loads(whole)["choices"][0]["message"]
    assert (message["content"], message["tool_calls"][0]["function"]["name"]) == (None, "opt_out")


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "retrieval"}],
        [{"type": "function"}],
        [{"type": "function", "function": {"name": "opt out"}}],
        [{"type": "function", "function": {"name": "x", "parameters": []}}],
        TOOLS * 129,
    ],
)
async def test_what_is_no_tool_is_refused(bed: Bed, tools: list[dict[str, Any]]) -> None:
    response, text = await post(bed, body(tools=tools))
    assert (response.status, "tools" in json.loads(text)["error"]["message"]) == (400, True)
    with pytest.raises(RefusedError):
        check_tools(tools)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "tool", "content": "done", "tool_call_id": "a"}],
        [{"role": "assistant", "tool_calls": [{"id": "a"}]}],
        [{"role": "assistant", "tool_calls": [{"id": "a"}]}, {"role": "tool", "content": "x", "tool_call_id": "b"}],
        [{"role": "narrator", "content": "x"}],
        [{"role": "user"}],
    ],
)
def test_messages_that_no_provider_takes(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(RefusedError, match="messages"):
        check_messages(messages)


@pytest.mark.parametrize("whole", [True, False])
def test_the_pieces_of_a_call_make_the_call(whole: bool) -> None:
    call = Call("switch_language", {"language": "es", "why": "dijo «en español»"})
    pieces = [delta["tool_calls"][0] for delta in call.deltas(whole=whole)]
    assert json.loads("".join(piece["function"].get("arguments", "") for piece in pieces)) == call.arguments
    assert (pieces[0]["id"], pieces[0]["function"]["name"]) == (call.id, "switch_language")


@pytest.mark.parametrize(("language", "told"), [("en", "do not know"), ("es", "no lo sé"), ("fr", "ne sais pas")])
def test_it_speaks_the_language_of_the_system_message(language: Any, told: str) -> None:
    messages = [{"role": "system", "content": TRILINGUAL.instructions(language)}, {"role": "user", "content": "Zzz?"}]
    assert told in brain.answer(messages)
