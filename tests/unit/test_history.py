"""What the model sees: the talk as it was heard, in the language of the moment, and never without bounds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.history import KEPT_MESSAGES, History
from serve_app.conversation.tools import tools_for
from serve_app.providers.base import ChatRequest, Message
from serve_app.providers.chat_stream import _message
from serve_app.simulators.chat_tools import check_messages, check_tools
from tests.unit.api_support import AGENT


def agent(**changes: Any) -> AgentDefinition:
    return AgentDefinition.model_validate(AGENT | changes)


def wire(request: ChatRequest) -> list[dict[str, Any]]:
    """The messages as a provider gets them."""
    return [_message(message) for message in request.messages]


def enum(request: ChatRequest) -> list[str] | None:
    for tool in request.tools:
        function: Any = tool["function"]
        if function["name"] == "switch_language":
            return list(function["parameters"]["properties"]["language"]["enum"])
    return None


def test_turns_alternate_and_empty_ones_leave_no_trace() -> None:
    history = History(agent())
    history.add_agent("Hello, this is Ava.")
    history.add_callee("Where are you?")
    history.add_agent(" ")
    history.add_callee("I mean, which street?")
    assert [(m.role, m.content) for m in history.request("c").messages[1:]] == [
        ("assistant", "Hello, this is Ava."),
        ("user", "Where are you? I mean, which street?"),
    ]


def test_a_draft_is_the_request_to_come_and_leaves_nothing_behind() -> None:
    history = History(agent())
    history.add_agent("Hello.")
    before = history.request("c")
    draft = history.draft_request("c", "Where are you?")
    assert history.request("c") == before
    history.add_callee("Where are you?")
    assert history.request("c") == draft != before


def test_a_switch_of_language_changes_what_the_model_is_told_and_may_switch_to() -> None:
    history = History(agent(languages={"es": {}, "fr": {}}))
    history.add_callee("En español, por favor.")
    assert enum(history.request("c")) == ["es", "fr"]
    assert "in English" in history.request("c").messages[0].content
    history.switch_language("es")
    request = history.request("c")
    assert enum(request) == ["en", "fr"]
    assert "in Spanish" in request.messages[0].content
    assert [m.role for m in request.messages] == ["system", "user"]


def test_an_agent_of_one_language_offers_no_switch_and_nobody_can_undo_an_opt_out() -> None:
    names = [tool["function"]["name"] for tool in tools_for("en", ["en"])]  # type: ignore[index]
    assert names == ["opt_out", "end_call"]
    check_tools(tools_for("en", ["en", "es", "fr"]))


def test_a_tool_call_is_followed_by_its_result_and_the_next_turn_is_a_message_of_its_own() -> None:
    history = History(agent(languages={"es": {}}))
    history.add_callee("En español.")
    history.add_tool_call("switch_language", {"language": "es"}, "done")
    history.add_agent("Claro.")
    history.add_tool_call("end_call", {}, "refused")
    messages = wire(history.request("c"))
    check_messages(messages)
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "assistant", "assistant", "tool"]
    assert messages[2]["tool_calls"][0]["function"] == {
        "name": "switch_language",
        "arguments": '{"language": "es"}',
    }
    assert messages[3]["content"] == "done"
    assert messages[2]["tool_calls"][0]["id"] != messages[5]["tool_calls"][0]["id"]


STEP = st.one_of(
    st.tuples(st.just("callee"), st.text(max_size=400)),
    st.tuples(st.just("agent"), st.text(max_size=400)),
    st.tuples(st.just("tool"), st.text(max_size=50)),
)


@given(st.lists(STEP, max_size=80))
def test_however_long_the_call_what_is_sent_is_bounded_and_acceptable(steps: list[tuple[str, str]]) -> None:
    limit = 500
    history = History(agent(limits={"max_history_tokens": limit}))
    said: list[str] = []
    for kind, text in steps:
        if kind == "callee":
            history.add_callee(text)
        elif kind == "agent":
            history.add_agent(text)
        else:
            history.add_tool_call("end_call", {"reason": text}, "refused")
        if kind != "tool" and text.strip():
            said.append(text.strip())
        request = history.request("c")
        messages = wire(request)
        check_messages(messages)
        assert messages[0]["role"] == "system"
        tokens = sum(4 + (len(m.content) + sum(len(c.arguments_json) for c in m.tool_calls)) / 4 for m in talk(request))
        assert len(talk(request)) <= KEPT_MESSAGES or tokens <= limit * 1.05
        if said:
            assert any(m.content.endswith(said[-1]) for m in talk(request)), "the last words are never dropped"


def talk(request: ChatRequest) -> list[Message]:
    return list(request.messages[1:])


def test_a_long_history_is_cut_seldom_so_that_its_beginning_stays_the_same() -> None:
    history = History(agent(limits={"max_history_tokens": 500}))
    beginnings = []
    for turn in range(200):
        history.add_callee(f"Question number {turn}, with some words to it.")
        history.add_agent(f"Answer number {turn}, with some words to it.")
        beginnings.append(history.request("c").messages[1])
    cuts = sum(a != b for a, b in pairwise(beginnings))
    assert 5 <= cuts <= 50


@pytest.mark.parametrize("tokens", [0, 499, 200_001])
def test_a_limit_that_makes_no_sense_is_refused(tokens: int) -> None:
    with pytest.raises(ValueError, match="max_history_tokens"):
        agent(limits={"max_history_tokens": tokens})
