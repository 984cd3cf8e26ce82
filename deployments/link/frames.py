"""The link's format, sans-I/O: bytes in, frames out.

A frame is an 8-byte little-endian header, `channel: u32` and `kind << 24 | length: u32`, and `length` payload bytes.
Channel 0 is the connection's own; every other channel is one call.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

HEADER = struct.Struct("<II")
MAX_PAYLOAD = 1 << 20


class Kind(IntEnum):
    PING = 0
    ATTACH = 1  # ingress -> session: JSON {call_id, epoch, token}
    ATTACHED = 2  # session -> ingress: the proof that the session knows the call, too
    REFUSED = 3  # session -> ingress: why not
    TEXT = 4
    BINARY = 5
    CLOSE = 6  # either way: the reason; nothing follows on this channel


class LinkProtocolError(Exception):
    """The peer sent what is not a frame. The connection is closed."""


def encode(channel: int, kind: Kind, payload: bytes = b"") -> bytes:
    """One frame. Raises ValueError for a payload beyond 1 MiB."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"payload of {len(payload)} bytes, at most {MAX_PAYLOAD}")
    return HEADER.pack(channel, kind << 24 | len(payload)) + payload


class Decoder:
    """Splits a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, Kind, bytes]]:
        """The frames completed by `data`, as (channel, kind, payload). Raises LinkProtocolError."""
        if self._buffer:
            self._buffer += data
            data = bytes(self._buffer)
            self._buffer.clear()
        offset, end = 0, len(data)
        while end - offset >= HEADER.size:
            channel, word = HEADER.unpack_from(data, offset)
            length = word & 0xFFFFFF
            if length > MAX_PAYLOAD:
                raise LinkProtocolError(f"a frame announces {length} bytes, at most {MAX_PAYLOAD}")
            start = offset + HEADER.size
            if end - start < length:
                break
            try:
                kind = Kind(word >> 24)
            except ValueError as error:
                raise LinkProtocolError(f"unknown frame kind {word >> 24}") from error
            offset = start + length
            yield channel, kind, data[start:offset]
        if offset < end:
            self._buffer += data[offset:]
