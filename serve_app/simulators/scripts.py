"""What the callee says, told to the speech-to-text stand-in: the text comes from here, the timing from the audio."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

_MAX_CALLS = 2048


@dataclass(frozen=True, slots=True)
class ScriptedSegment:
    """The text of one speech segment. `more_follows`: the utterance goes on after the pause."""

    text: str
    more_follows: bool


class ScriptBook:
    """Texts that are expected per call, in the order of the speech segments."""

    def __init__(self) -> None:
        self._calls: OrderedDict[str, deque[ScriptedSegment]] = OrderedDict()

    def expect(self, call_id: str, text: str) -> None:
        """The next speech segment of the call says `text`."""
        self.expect_segments(call_id, [text])

    def expect_segments(self, call_id: str, texts: Sequence[str]) -> None:
        """The next speech segments of the call are one utterance with pauses inside: no turn ends between them."""
        queue = self._calls.setdefault(call_id, deque())
        self._calls.move_to_end(call_id)
        last = len(texts) - 1
        queue.extend(ScriptedSegment(text, more_follows=index < last) for index, text in enumerate(texts))
        # Bounded: a call that never came must not stay in memory.
        while len(self._calls) > _MAX_CALLS:
            self._calls.popitem(last=False)

    def next_segment(self, call_id: str) -> ScriptedSegment | None:
        """Take the text of the segment that now begins; None when nothing was told."""
        queue = self._calls.get(call_id)
        return queue.popleft() if queue else None

    def pending(self, call_id: str) -> int:
        return len(self._calls.get(call_id, ()))

    def forget(self, call_id: str) -> None:
        self._calls.pop(call_id, None)


class _ScriptDocument(BaseModel):
    model_config = ConfigDict(extra="forbid")

    texts: list[str] = Field(min_length=1, max_length=1000)


SCRIPTS: web.AppKey[ScriptBook] = web.AppKey("scripts", ScriptBook)


async def post_script(request: web.Request) -> web.Response:
    """`POST /sim/calls/{call_id}/script` with `{"texts": [...]}`: one utterance, a text per speech segment."""
    try:
        document = _ScriptDocument.model_validate_json(await request.read())
    except ValidationError as error:
        return web.json_response({"error": error.errors(include_url=False, include_input=False)}, status=422)
    request.app[SCRIPTS].expect_segments(request.match_info["call_id"], document.texts)
    return web.json_response({"pending": request.app[SCRIPTS].pending(request.match_info["call_id"])})
