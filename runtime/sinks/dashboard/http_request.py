"""HTTP/1.x as far as a page needs it: one small request, one answer, the end of the connection (RFC 9112)."""

import json
import re
from http import HTTPStatus
from typing import NamedTuple

LARGEST_HEAD = 16 << 10  # bytes of request line and headers together
LARGEST_BODY = 1024  # bytes
LONGEST_TARGET = 1024  # characters; also of a Host, and so of all that urllib.parse remembers
MOST_HEADERS = 100
LINE = re.compile(rb"([!-~]+) ([!-~]+) HTTP/([0-9])\.[0-9]")
NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Refusal(Exception):
    """A request that gets a 4xx or 5xx: the code and a text for whoever sent it."""


class Head(NamedTuple):
    """What comes before the body. headers: values by their name in small letters. length: bytes of the body."""

    method: str
    target: str
    headers: dict[str, list[str]]
    length: int


class Request(NamedTuple):
    """client: whom it comes from, as `http_server.client_of` tells it. port: that it came to."""

    head: Head
    body: bytes
    client: str
    port: int


class Answer(NamedTuple):
    """What is sent back. headers: besides those that every answer has."""

    code: int
    text: str
    headers: dict[str, str] = {}

    def encode(self) -> bytes:
        body = self.text.encode()
        lines = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close",
                 "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
                 **self.headers}
        head = f"HTTP/1.0 {self.code} {HTTPStatus(self.code).phrase}\r\nServer: earshot\r\n"
        return (head + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n").encode() + body


def refused(refusal: Refusal) -> Answer:
    return Answer(refusal.args[0], json.dumps({"error": refusal.args[1]}))


def take_head(received: bytes | bytearray) -> tuple[Head, int] | None:
    """What has come so far → the head and its size, or None while more has to come. Raises Refusal.

    Nothing is looked at before it is known to be small: parsers have been made to need any amount of memory.
    """
    end = received.find(b"\r\n\r\n", 0, LARGEST_HEAD)
    if end >= 0:
        return _parse(bytes(received[:end])), end + 4
    if len(received) >= LARGEST_HEAD:
        raise Refusal(431, "too large") if b"\r\n" in received else Refusal(414, "too long")
    return None


def _parse(head: bytes) -> Head:
    line, *lines = head.split(b"\r\n")
    match = LINE.fullmatch(line)
    if match is None:
        raise Refusal(400, "this is not HTTP/1.1")
    method, target, version = match[1].decode(), match[2].decode(), match[3]
    if len(target) > LONGEST_TARGET:
        raise Refusal(414, "too long")
    if version != b"1":
        raise Refusal(505, "HTTP/1.1 is needed")
    if method not in ("GET", "POST"):
        raise Refusal(501, "there is GET and POST")
    if len(lines) > MOST_HEADERS:
        raise Refusal(431, "too many headers")
    headers: dict[str, list[str]] = {}
    for text in lines:
        name, colon, value = text.partition(b":")
        # A bare CR or LF ends a line for some who read it, and not for others.
        if not colon or NAME.fullmatch(name) is None or set(value) & set(b"\r\n\0"):
            raise Refusal(400, "a header makes no sense")
        headers.setdefault(name.decode().lower(), []).append(value.decode("latin-1").strip(" \t"))
    return Head(method, target, headers, _length(headers) if method == "POST" else 0)


def _length(headers: dict[str, list[str]]) -> int:
    lengths = headers.get("content-length", [])
    if len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdecimal()) or "transfer-encoding" in headers:
        raise Refusal(411, "Content-Length is needed")
    if len(lengths[0]) > 9 or int(lengths[0]) > LARGEST_BODY:
        raise Refusal(413, f"more than {LARGEST_BODY} bytes")
    return int(lengths[0])
