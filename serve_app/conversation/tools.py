"""What the model may ask for besides speech. The turn machine carries it out, or refuses; but a result is reported to
`conversation.results`.

No tool takes anything back: above all, an opt-out cannot be undone by the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from serve_app.conversation.phrases import Language, phrases_of
from serve_app.providers.base import ToolCall

Tool = dict[str, object]
REPORT_RESULT = "report_result"


def function(name: str, description: str, properties: dict[str, object], required: tuple[str, ...] = ()) -> Tool:
    """A tool in the form that OpenAI and Groq take."""
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


OPT_OUT = function(
    "opt_out",
    "Call this at once, without saying anything, when the other person does not want to be called again by us, in "
    "whatever words: for example, wants to be left alone, to be taken off the list, or the number to be forgotten. Not "
    "when they only have no time now, or want to be called at another time. It cannot be undone.",
    {"reason": {"type": "string", "description": "their words"}},
)
END_CALL = function(
    "end_call",
    "Call this, after your own goodbye, when the conversation is over: what it was for is done or refused, or the "
    "other person says goodbye.",
    {},
)


def switch_language(languages: Iterable[Language]) -> Tool:
    """To one of these languages."""
    offered = list(languages)
    names = ", ".join(phrases_of(language).name for language in offered)
    return function(
        "switch_language",
        "Call this, without saying anything, when the other person asks for, or goes on in, another language "
        f"({names}).",
        {"language": {"type": "string", "enum": list(offered)}},
        ("language",),
    )


def tools_for(language: Language, languages: Iterable[Language]) -> tuple[Tool, ...]:
    """The tools of a talk in `language` of an agent that speaks `languages`: one cannot switch to what is spoken."""
    others = [other for other in languages if other != language]
    return (OPT_OUT, END_CALL, *((switch_language(others),) if others else ()))


def opt_out_reason(call: ToolCall) -> str | None:
    """The callee's words, as the model tells them, when the call is an opt-out: by its name alone, whatever its
    arguments look like. None for every other tool.
    """
    if call.name != "opt_out":
        return None
    try:
        arguments = json.loads(call.arguments_json or "{}")
    except ValueError:
        arguments = None
    reason = arguments.get("reason") if isinstance(arguments, dict) else None
    return reason if isinstance(reason, str) and reason.strip() else "asked for by the callee"
