"""Floods from a process of their own, over loopback alone:  python floods.py KIND PORT SECONDS

    dashboard, wyoming     everything that a client can send too much of, from several addresses of 127.0.0.0/8 at once
    describe, talk         a part of the latter
    broker                 an MQTT broker on a free port, which it prints, that says what nobody asked for
"""

import contextlib
import itertools
import json
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

GET = b"GET /state HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@dataclass
class Kind:
    """client: the last part of its address. width: connections at once. begin: sent once. more: sent again and again.

    hold: keep the connection until the other side ends it; else it is closed once all is sent.
    """

    client: int
    width: int
    begin: bytes
    more: bytes = b""
    hold: bool = True


def message(kind: str, payload: bytes = b"", length: int | None = None, **data: object) -> bytes:
    """Of the Wyoming protocol."""
    size = len(payload) if length is None else length
    return json.dumps({"type": kind, "data": data, "payload_length": size}).encode() + b"\n" + payload


AUDIO = {"rate": 16000, "width": 2, "channels": 1}
DESCRIBE = Kind(2, 4, b"", message("describe") * 50)
TALK = Kind(5, 8, b"", message("audio-chunk", bytes(64_000), **AUDIO))
KINDS = {
    "dashboard": [
        Kind(2, 20, GET + b"\r\n"),
        Kind(2, 20, GET + b"\r\n", hold=False),
        Kind(3, 40, GET),  # and nothing more
        Kind(4, 8, GET + b"X: ", b"\r" * 50_000),
        Kind(5, 8, b"", b"A" * 50_000),
        Kind(6, 8, b"GET /?token=guess HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
        Kind(7, 8, b"POST /threshold HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"),
        Kind(8, 20, b"", hold=False),
    ],
    "describe": [DESCRIBE],
    "talk": [TALK],
    "wyoming": [
        DESCRIBE,
        TALK,
        Kind(3, 40, b""),  # and nothing more
        Kind(4, 8, message("audio-chunk", bytes(64_000), length=1 << 20, **AUDIO)),  # and never the other half
        Kind(6, 8, b"{" + b" " * 10_000),
        Kind(7, 8, b"nonsense\n" * 10),
        Kind(8, 20, b"", hold=False),
    ],
}


class Attacker:
    """One connection of a kind after the other."""

    def __init__(self, kind: Kind, port: int, selector: selectors.BaseSelector) -> None:
        self._kind, self._port, self._selector = kind, port, selector
        self.opened = 0
        self._open()

    def _open(self) -> None:
        self._left = self._kind.begin
        self._own = socket.socket()
        self._own.setblocking(False)
        with contextlib.suppress(BlockingIOError, OSError):
            self._own.bind((f"127.0.0.{self._kind.client}", 0))
            self._own.connect(("127.0.0.1", self._port))
        self.opened += 1
        self._selector.register(self._own, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def turn(self, mask: int) -> None:
        try:
            if mask & selectors.EVENT_READ and not self._own.recv(65536):
                raise ConnectionResetError
            if mask & selectors.EVENT_WRITE:
                self._left = self._left or self._kind.more
                self._left = self._left[self._own.send(self._left) :]
                if not self._left and not self._kind.more:
                    if not self._kind.hold:
                        raise ConnectionResetError
                    self._selector.modify(self._own, selectors.EVENT_READ, self)
        except BlockingIOError:
            pass
        except OSError:
            self._selector.unregister(self._own)
            self._own.close()
            self._open()


def attack(kinds: list[Kind], port: int, seconds: float) -> int:
    """→ connections that were opened."""
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        attackers = [Attacker(kind, port, selector) for kind in kinds for _ in range(kind.width)]
        while time.monotonic() < end:
            for key, mask in selector.select(0.1):
                key.data.turn(mask)
    return sum(attacker.opened for attacker in attackers)


WELCOME = b"\x20\x02\x00\x00"
SPEECHES = {
    "PUBLISH of 256 MB": b"\x30\xff\xff\xff\x7f" + bytes(60_000),
    "PUBLISH of QoS 2": b"".join(b"\x34\x07\x00\x01a" + number.to_bytes(2, "big") + b"xx" for number in range(1, 9000)),
    "PINGREQ": b"\xc0\x00" * 30_000,
    "CONNACK": WELCOME * 15_000,
    "PUBREL": b"".join(b"\x62\x02" + number.to_bytes(2, "big") for number in range(1, 9000)),
    "PUBACK of what was not sent": b"\x40\x02\xff\xff" * 15_000,
    "PINGRESP": b"\xd0\x00" * 30_000,
    "nothing that makes sense": b"\xff" * 60_000,
}


def broker(seconds: float, speeches: Iterator[bytes], port_known=print) -> int:
    """Welcome everybody, and send one of the speeches again and again → connections that came."""
    end = time.monotonic() + seconds
    count = 0
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        port_known(listening.getsockname()[1])
        while time.monotonic() < end:
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            count += 1
            with connection, contextlib.suppress(OSError):
                connection.settimeout(0.5)
                connection.recv(4096)
                connection.sendall(WELCOME)
                speech = next(speeches)
                while time.monotonic() < end:
                    try:
                        connection.sendall(speech)
                    except TimeoutError:
                        continue
    return count


if __name__ == "__main__":
    what, at, how_long = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    if what == "broker":
        print(broker(how_long, itertools.cycle(SPEECHES.values()), lambda port: print(port, flush=True)))
    else:
        print(attack(KINDS[what], at, how_long))
