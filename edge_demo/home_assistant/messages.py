"""Wyoming messages from untrusted clients: a line of JSON, then the data and audio that it announces."""

import asyncio
import json
from collections.abc import Awaitable
from typing import Any, NamedTuple, TypeVar

LONGEST_LINE = 16 << 10  # bytes of a message's JSON, in its line or behind it
LARGEST_PAYLOAD = 1 << 20  # bytes of a message's audio; half a minute at 16 kHz and 16 bits
PIECE = 16 << 10  # bytes of it that are held at once
MESSAGE_SECONDS = 30.0  # to receive a part of a message that has begun, or to send one
IDLE_SECONDS = 300.0  # between two messages

T = TypeVar("T")


class Malformed(Exception):
    """A violation of the protocol. The message is one line."""


class Message(NamedTuple):
    """size: bytes of audio that follow."""

    kind: str
    data: dict[str, Any]
    size: int

    def integer(self, key: str, least: int, most: int) -> int:
        """Raises Malformed."""
        value = self.data.get(key)
        if type(value) is not int or not least <= value <= most:
            raise Malformed(f"{key} of {self.kind} is not a whole number in {least}…{most}")
        return value


class Reader:
    """Messages of one connection, bounded in length and time, which the wyoming package's own reader is not."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self._left = 0  # bytes of the last message's audio

    async def message(self, patience: float) -> Message | None:
        """The next message, or None at the end. patience: seconds until it has to begin. Raises Malformed."""
        while await self.audio(PIECE):  # skip the rest of the one before
            pass
        try:
            async with asyncio.timeout(patience):
                first = await self._stream.read(1)
        except TimeoutError:
            raise Malformed(f"nothing came for {patience:.0f} s") from None
        if not first:
            return None
        try:
            line = first if first == b"\n" else first + await in_time(self._stream.readline())
        except ValueError:
            raise Malformed(f"a line is longer than {LONGEST_LINE} bytes") from None
        header = json_object(line)
        if not isinstance(header.get("type"), str):
            raise Malformed("a message has no type")
        data = header.get("data") or {}
        if not isinstance(data, dict):
            raise Malformed("data is not an object")
        if size := length_of(header, "data_length", LONGEST_LINE):
            data.update(json_object(await in_time(self._stream.readexactly(size))))
        self._left = length_of(header, "payload_length", LARGEST_PAYLOAD)
        return Message(header["type"], data, self._left)

    async def audio(self, most: int) -> bytes:
        """At most that many further bytes of the last message's audio; none at its end. Raises Malformed."""
        piece = await in_time(self._stream.readexactly(min(most, self._left)))
        self._left -= len(piece)
        return piece


async def in_time(read: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(MESSAGE_SECONDS):
            return await read
    except TimeoutError:
        raise Malformed(f"a message did not arrive within {MESSAGE_SECONDS:.0f} s") from None
    except asyncio.IncompleteReadError:
        raise Malformed("the connection ended inside a message") from None


def json_object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text.decode())
    except (ValueError, RecursionError):
        raise Malformed("a message is not JSON") from None
    if not isinstance(value, dict):
        raise Malformed("a message is not a JSON object")
    return value


def length_of(header: dict[str, Any], key: str, most: int) -> int:
    value = header.get(key)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= most:
        raise Malformed(f"{key} is not a whole number in 0…{most}")
    return value
