"""The network's playout buffer of one leg, drained one frame per 20 ms. Sans-I/O: time is the number of ticks."""

from __future__ import annotations

from collections import deque

CAPACITY_FRAMES = 3072
"""About 60 s (Vonage voice guide)."""
MAX_NOTIFIES = 10_000
UNDERRUN_TICKS = 20
"""A gap of up to 400 ms inside the agent's speech is an underrun; a longer one is a pause."""


class FarBuffer:
    """Frames and notifies in the order in which the platform sent them.

    What happens beyond the capacity is not documented by the vendor: the newest frames are dropped here. Whether a
    clear fires the notifies that it drops is not documented either: it is a switch.
    """

    def __init__(self, *, capacity_frames: int = CAPACITY_FRAMES, fire_dropped_notifies: bool = False) -> None:
        self._items: deque[bytes | str] = deque()  # bytes: a frame; str: the JSON of a notify
        self._sounds: deque[bool] = deque()
        self._capacity = capacity_frames
        self._fire_dropped = fire_dropped_notifies
        self._gap_ticks = 0
        self._gap_counts = False
        self._playing = False
        self.due: deque[str] = deque()
        """Notifies that have fired; the leg sends and removes them."""
        self.frames = 0
        self.max_frames = 0
        self.played = 0
        self.overflowed = 0
        self.cleared_frames = 0
        self.dropped_notifies = 0
        self.underruns = 0
        self.underrun_ticks = 0
        self.gaps = 0
        """Underruns, and gaps that only a fired notify excuses: the measure for systems that send notifies unalike."""
        self.sounded = False
        """Whether the latest frame that `tick` returned was pushed as one that sounds."""

    def push(self, frame: bytes, sounds: bool = True) -> None:
        if self.frames >= self._capacity:
            self.overflowed += 1
            return
        self._items.append(frame)
        self._sounds.append(sounds)
        self.frames += 1
        if self.frames > self.max_frames:
            self.max_frames = self.frames

    def push_notify(self, notify: str) -> None:
        """`notify` fires when every frame before it has been played."""
        if len(self._items) - self.frames < MAX_NOTIFIES:
            self._items.append(notify)
        else:
            self.dropped_notifies += 1

    def clear(self) -> None:
        """Drop everything. The silence that follows is no underrun."""
        notifies = [item for item in self._items if isinstance(item, str)]
        self.cleared_frames += self.frames
        self._items.clear()
        self._sounds.clear()
        self.frames = 0
        self._gap_counts = self._playing = False
        if self._fire_dropped:
            self.due.extend(notifies)
        else:
            self.dropped_notifies += len(notifies)

    def tick(self) -> bytes | None:
        """The frame of the next 20 ms, None for silence.

        A notify fires at the tick after the last frame before it: when that frame has been played. An underrun is a
        gap of at most UNDERRUN_TICKS between two frames with neither a clear nor a fired notify in it.
        """
        items = self._items
        while items:
            item = items.popleft()
            if isinstance(item, str):
                self.due.append(item)
                self._gap_counts = False
                continue
            self.frames -= 1
            self.played += 1
            self.sounded = self._sounds.popleft()
            if self._gap_ticks:
                if self._playing and self._gap_ticks <= UNDERRUN_TICKS:
                    self.gaps += 1
                    if self._gap_counts:
                        self.underruns += 1
                        self.underrun_ticks += self._gap_ticks
                self._gap_ticks = 0
            self._gap_counts = self._playing = True
            return item
        self._gap_ticks += 1
        return None
