"""Groq's and OpenAI's SDKs, unmodified, against the chat stand-in: every way in which a stream can go wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from serve_app.errors import ProviderError
from serve_app.provider_settings import GroqSettings, OpenAISettings
from serve_app.providers.base import ChatEvent, ChatFinished, ChatRequest, LanguageModel, Message, TextDelta, ToolCall
from serve_app.providers.chat_stream import ChatStreamer, Dialect
from serve_app.providers.llm_groq import GroqModel
from serve_app.providers.llm_openai import OpenAIModel
from serve_app.simulators.chat import CHAT
from serve_app.simulators.config import SimulatorConfig
from serve_app.simulators.latency import Constant
from tests.unit.providers_fixtures import QUICK, Bed, eventually, running

pytest_plugins = ("tests.unit.providers_fixtures",)

ASKED = ChatRequest(
    call_id="c1",
    messages=(
        Message("system", "You are Ava.\nFacts you know:\n- Parking is free behind the building."),
        Message("user", "Where can I park my car?"),
    ),
    max_tokens=400,
)


@pytest.fixture(params=["groq", "openai"])
async def model(request: pytest.FixtureRequest, bed: Bed) -> AsyncIterator[LanguageModel]:
    made: LanguageModel
    if request.param == "groq":
        made = GroqModel(bed.groq(token_timeout_s=0.4), "k")
    else:
        made = OpenAIModel(bed.openai(token_timeout_s=0.4), "k")
    yield made
    await made.aclose()


async def collect(model: LanguageModel, request: ChatRequest = ASKED) -> list[ChatEvent]:
    return [event async for event in model.stream(request)]


async def failure(model: LanguageModel) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await collect(model)
    assert caught.value.stage == "llm" and caught.value.provider == model.name
    return caught.value


async def test_a_reply_streams_as_text_and_ends_with_exactly_one_marker(model: LanguageModel) -> None:
    events = await collect(model)
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text.endswith("Parking is free behind the building.")
    assert len([event for event in events if isinstance(event, TextDelta)]) > 3
    finished = [event for event in events if isinstance(event, ChatFinished)]
    assert finished == [events[-1]]
    assert finished[0].reason == "stop"
    assert finished[0].prompt_tokens and finished[0].completion_tokens


async def test_groq_is_asked_to_think_little_and_in_silence(bed: Bed) -> None:
    model = GroqModel(bed.groq(), "k")
    await collect(model)
    await model.aclose()
    body = bed.app[CHAT].recent[-1]
    assert body["reasoning_effort"] == "low"
    assert body["include_reasoning"] is False
    assert body["max_completion_tokens"] == 400
    assert body["stream"] is True


@pytest.mark.parametrize(
    ("fault", "status", "retryable"),
    [("unauthorized", 401, False), ("rate_limited", 429, True), ("server_error", 500, True)],
)
async def test_a_refused_request_fails_at_once_and_is_sent_once(
    bed: Bed, model: LanguageModel, fault: str, status: int, retryable: bool
) -> None:
    bed.fault("llm", fault, retry_after_s=30)
    error = await failure(model)
    assert (error.status, error.retryable) == (status, retryable)
    # A second request is served: nothing retried behind our back, nothing slept for retry-after.
    assert isinstance((await collect(model))[-1], ChatFinished)


async def test_a_retired_model_is_named_with_the_remedy(bed: Bed) -> None:
    model = GroqModel(bed.groq(model="llama-3.3-70b-versatile"), "k")
    error = await failure(model)
    await model.aclose()
    assert (error.status, error.retryable) == (404, False)
    assert "llama-3.3-70b-versatile" in str(error) and "providers.groq.model" in str(error)


async def test_a_wrong_key_is_not_retryable(bed: Bed) -> None:
    model = GroqModel(bed.groq(), "invalid")
    error = await failure(model)
    await model.aclose()
    assert (error.status, error.retryable) == (401, False)


@pytest.mark.parametrize(
    "kind",
    ["hang", "disconnect", "cut", "close", "early_eof", "error_event", "hang_mid_stream", "wrong_finish"],
)
async def test_a_broken_answer_is_a_retryable_failure(bed: Bed, model: LanguageModel, kind: str) -> None:
    after = {"after": 0 if kind == "wrong_finish" else 4} if kind not in ("hang", "disconnect") else {}
    bed.fault("llm", kind, **after)
    async with asyncio.timeout(30):
        error = await failure(model)
    assert error.retryable


@pytest.mark.parametrize("kind", ["cut", "close", "early_eof", "hang_mid_stream", "error_event"])
async def test_text_before_the_break_was_delivered(bed: Bed, model: LanguageModel, kind: str) -> None:
    bed.fault("llm", kind, after=4)
    heard: list[ChatEvent] = []
    with pytest.raises(ProviderError):
        async for event in model.stream(ASKED):
            heard.append(event)
    assert heard and not any(isinstance(event, ChatFinished) for event in heard)


async def test_an_error_inside_a_groq_chunk_is_a_failure(bed: Bed) -> None:
    model = GroqModel(bed.groq(), "k")
    bed.fault("llm", "embedded_error", after=3)
    error = await failure(model)
    await model.aclose()
    assert "over capacity" in str(error)


async def test_an_event_of_an_unknown_kind_is_passed_over(bed: Bed) -> None:
    model = GroqModel(bed.groq(), "k")
    bed.fault("llm", "unknown_message", after=3)
    assert isinstance((await collect(model))[-1], ChatFinished)
    await model.aclose()


async def test_an_unreachable_server_is_a_retryable_failure() -> None:
    async with running() as bed:
        settings = bed.groq()
    model = GroqModel(settings, "k")
    assert (await failure(model)).retryable
    await model.aclose()


async def test_leaving_early_closes_the_stream_and_the_next_reply_works() -> None:
    slow = QUICK.model_copy(update={"llm_inter_token": Constant(ms=20)})
    async with running(SimulatorConfig(latency=slow)) as bed:
        for model in (GroqModel(bed.groq(), "k"), OpenAIModel(bed.openai(), "k")):
            before = bed.app[CHAT].streams_cut_by_client
            stream = model.stream(ASKED)
            assert isinstance(await anext(stream), TextDelta)
            await stream.aclose()  # type: ignore[attr-defined]
            await eventually(lambda before=before: bed.app[CHAT].streams_cut_by_client == before + 1)
            assert isinstance((await collect(model))[-1], ChatFinished)
            await model.aclose()


async def test_cancelling_the_reader_closes_the_stream() -> None:
    slow = QUICK.model_copy(update={"llm_inter_token": Constant(ms=20)})
    async with running(SimulatorConfig(latency=slow)) as bed:
        model = GroqModel(bed.groq(), "k")
        reader = asyncio.create_task(collect(model))
        await eventually(lambda: len(bed.app[CHAT].recent) == 1)
        await asyncio.sleep(0.05)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await eventually(lambda: bed.app[CHAT].streams_cut_by_client == 1)
        await model.aclose()


# --- folding, without a server ----------------------------------------------------------------------------------------


class ScriptedSdk:
    """The shape of an SDK client whose stream yields given chunks."""

    def __init__(self, chunks: list[Any], gap_s: float = 0.0) -> None:
        self.closed = 0
        self._chunks = chunks
        self._gap_s = gap_s

    async def post(self, path: str, **options: Any) -> ScriptedSdk:
        return self

    async def __aiter__(self) -> AsyncIterator[Any]:
        for chunk in self._chunks:
            await asyncio.sleep(self._gap_s)
            yield chunk

    async def close(self) -> None:
        self.closed += 1


def chunk(content: str | None = None, finish: str | None = None, calls: list[Any] | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": content, "tool_calls": calls}, "finish_reason": finish}]}


def call_piece(index: int, arguments: str, **fields: Any) -> dict[str, Any]:
    return {"index": index, "id": fields.get("id"), "function": {"name": fields.get("name"), "arguments": arguments}}


def streamer(sdk: ScriptedSdk, token_timeout_s: float = 1.0) -> ChatStreamer:
    dialect = Dialect("scripted", (), (), (), "/v1", None, limit_parameter="max_completion_tokens")
    return ChatStreamer(sdk, dialect, model="m", temperature=None, token_timeout_s=token_timeout_s)


async def test_nothing_is_said_twice_when_the_end_of_a_complete_answer_never_comes() -> None:
    """The last chunk may carry both text and finish reason; the body then hangs, or is cut, before its end."""

    class Endless(ScriptedSdk):
        async def __aiter__(self) -> AsyncIterator[Any]:
            async for piece in super().__aiter__():
                yield piece
            await asyncio.Event().wait()

    class Cut(ScriptedSdk):
        async def __aiter__(self) -> AsyncIterator[Any]:
            async for piece in super().__aiter__():
                yield piece
            raise OSError("connection reset")

    for sdk_type in (Endless, Cut):
        sdk = sdk_type([chunk("Hello "), chunk("there.", finish="stop")])
        async with asyncio.timeout(30):
            events = [event async for event in streamer(sdk, token_timeout_s=0.1).stream(ASKED)]
        assert [event.text for event in events if isinstance(event, TextDelta)] == ["Hello ", "there."]
        assert isinstance(events[-1], ChatFinished)


async def test_tool_calls_are_put_together_by_index() -> None:
    sdk = ScriptedSdk(
        [
            chunk(calls=[call_piece(0, '{"da', id="a", name="book")]),
            chunk(calls=[call_piece(1, "{}", id="b", name="hang_up")]),
            chunk(calls=[call_piece(0, 'y": 1}')]),
            chunk(finish="tool_calls"),
        ]
    )
    events = [event async for event in streamer(sdk).stream(ASKED)]
    assert events == [
        ToolCall("a", "book", '{"day": 1}'),
        ToolCall("b", "hang_up", "{}"),
        ChatFinished("tool_calls"),
    ]
    assert sdk.closed == 1


async def test_thinking_does_not_extend_the_wait_for_the_first_token() -> None:
    sdk = ScriptedSdk([chunk() for _ in range(50)], gap_s=0.03)
    with pytest.raises(ProviderError, match="no token within"):
        async for _ in streamer(sdk, token_timeout_s=0.2).stream(ASKED):
            pass
    assert sdk.closed == 1


@pytest.mark.parametrize(
    "stray",
    [
        [],
        None,
        {"choices": None, "usage": None},
        {"choices": [None, {"delta": None}, {"delta": {"content": None, "tool_calls": [None]}}]},
        {"x_groq": "no object", "choices": [{}]},
    ],
)
async def test_a_chunk_of_an_unexpected_shape_says_nothing(stray: Any) -> None:
    """The chunks are not validated by the SDK."""
    sdk = ScriptedSdk([chunk("Hello."), stray, chunk(finish="stop")])
    events = [event async for event in streamer(sdk).stream(ASKED)]
    assert events[0] == TextDelta("Hello.") and isinstance(events[-1], ChatFinished)


@pytest.mark.parametrize("key", ["usage", "x_groq"])
async def test_usage_comes_in_a_chunk_without_choices(key: str) -> None:
    counts = {"prompt_tokens": 11, "completion_tokens": 7}
    last: dict[str, Any] = {"choices": [], key: counts if key == "usage" else {"usage": counts}}
    events = [event async for event in streamer(ScriptedSdk([chunk("Hi."), chunk(finish="stop"), last])).stream(ASKED)]
    assert events[-1] == ChatFinished("stop", 11, 7)


def sse(*documents: Any) -> bytes:
    lines = [f"data: {json.dumps(document, ensure_ascii=False)}\n\n" for document in documents]
    return "".join(lines).encode() + b"data: [DONE]\n\n"


@asynccontextmanager
async def answering(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving(pieces: list[bytes]) -> AsyncIterator[str]:
    """A server whose answer comes in exactly these pieces of bytes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.002)
        await response.write_eof()
        return response

    async with answering(answer) as url:
        yield url


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_events_may_be_split_anywhere_in_the_stream(size: int) -> None:
    """Between the bytes of one character, too; and several may come in one piece."""
    body = sse(chunk("Schön "), chunk("gr\u00fc\u00dfe \U0001f44b."), chunk(finish="stop"))
    async with serving([body[at : at + size] for at in range(0, len(body), size)]) as url:
        for model in (GroqModel(GroqSettings(base_url=url), "k"), OpenAIModel(OpenAISettings(base_url=url), "k")):
            events = await collect(model)
            await model.aclose()
            said = "".join(event.text for event in events if isinstance(event, TextDelta))
            assert said == "Schön grüße \U0001f44b."
            assert isinstance(events[-1], ChatFinished)


async def test_a_chunk_that_is_no_json_is_a_retryable_failure() -> None:
    async with serving([sse(chunk("Hi.")).removesuffix(b"data: [DONE]\n\n"), b"data: {broken\n\n"]) as url:
        for model in (GroqModel(GroqSettings(base_url=url), "k"), OpenAIModel(OpenAISettings(base_url=url), "k")):
            assert (await failure(model)).retryable
            await model.aclose()


async def test_an_error_object_without_an_event_name_is_told() -> None:
    async with serving([sse(chunk("Hi."), {"error": {"message": "over capacity", "status_code": 503}})]) as url:
        for model in (GroqModel(GroqSettings(base_url=url), "k"), OpenAIModel(OpenAISettings(base_url=url), "k")):
            error = await failure(model)
            await model.aclose()
            assert "over capacity" in str(error) and error.status == 503 and error.retryable


@pytest.mark.parametrize("reachable", [True, False])
async def test_warming_connects_once_and_never_raises(reachable: bool) -> None:
    asked: list[str] = []
    connections: set[object] = set()

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        connections.add(request.transport)
        if request.path.endswith("/models"):
            return web.json_response({"data": []})
        return web.Response(body=sse(chunk("Hi."), chunk(finish="stop")), content_type="text/event-stream")

    async with answering(answer) as url:
        where = url if reachable else "http://127.0.0.1:1"
        for model in (GroqModel(GroqSettings(base_url=where), "k"), OpenAIModel(OpenAISettings(base_url=where), "k")):
            await model.warm()
            await model.warm()
            if reachable:
                await collect(model)
                await model.warm()
            await model.aclose()
    models = [path for path in asked if path.endswith("/models")]
    assert models == (["/openai/v1/models", "/models"] if reachable else [])
    assert len(connections) == len(models), "the reply goes over the warmed connection"
