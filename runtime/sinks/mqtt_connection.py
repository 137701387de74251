"""One connection to an MQTT broker: as much of MQTT 3.1.1 as whoever only publishes needs, and no more.

A broker that was asked for nothing else has three things to say, of four bytes at most: CONNACK once, PUBACK for what
was published, PINGRESP for a PINGREQ. With anything else, of any size, the connection ends before it is kept. Sections
are those of http://docs.oasis-open.org/mqtt/mqtt/v3.1.1/mqtt-v3.1.1.html.
"""

import contextlib
import secrets
import select
import socket
import struct
import time
from typing import NamedTuple

SECONDS = 5.0  # to connect, and for the broker to take what is sent
KEEPALIVE_SECONDS = 20  # after one and a half of it the broker takes a silent device for gone
AT_ONCE = 4096  # bytes
CONNACK, PUBACK, PINGRESP = b"\x20\x02", b"\x40\x02", b"\xd0\x00"  # type, flags and length: section 2.2
REFUSALS = {1: "it knows another MQTT", 2: "it does not want our name", 3: "it is not ready",
            4: "bad user name or password", 5: "not authorized"}  # section 3.2.2.3
KINDS = ("0", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
         "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "15")


class Address(NamedTuple):
    """Where a broker is. user: None to come as a stranger. prefix: of all topics."""

    host: str
    port: int
    tls: bool
    user: str | None
    prefix: str


class Connection:
    """Open once it is made. will: topic and payload that the broker publishes, retained, when the device is gone.

    Everything raises OSError when the connection has come to its end, in a way that tells why.
    """

    def __init__(self, address: Address, password: str | None, will: tuple[str, str]) -> None:
        self._heard = b""
        self._number = 0
        self._in_flight: set[int] = set()
        self._last_sent = time.monotonic()
        self._pinged: float | None = None
        self._socket = socket.create_connection((address.host, address.port), SECONDS)
        try:
            if address.tls:
                import ssl  # here: without TLS there is nothing to load it for

                # The system's authorities, or those of SSL_CERT_FILE.
                self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=address.host)
            self._send(b"\x10", _connect(address, password, will))
            self._welcome()
        except BaseException:
            self._socket.close()
            raise

    def publish(self, topic: str, payload: str, retain: bool = False) -> int:
        """Send a message, to be delivered at least once → the number that `hear` tells when the broker has it."""
        self._number = self._number % 65535 + 1
        while self._number in self._in_flight:
            self._number = self._number % 65535 + 1
        body = _text(topic) + struct.pack(">H", self._number) + payload.encode()
        self._in_flight.add(self._number)
        self._send(b"\x33" if retain else b"\x32", body)  # section 3.3, QoS 1
        return self._number

    def hear(self, seconds: float, wake: socket.socket) -> list[int]:
        """Wait until the broker says something or `wake` can be read → numbers of messages that it has now."""
        now = time.monotonic()
        if self._pinged is not None and now - self._pinged > KEEPALIVE_SECONDS / 2:
            raise TimeoutError(f"no answer within {KEEPALIVE_SECONDS / 2:.0f} s")
        if self._pinged is None and now - self._last_sent > KEEPALIVE_SECONDS / 2:
            self._send(b"\xc0", b"")
            self._pinged = now
        if not self._is_pending() and self._socket not in select.select([self._socket, wake], [], [], seconds)[0]:
            return []
        self._receive(AT_ONCE)
        return self._acknowledged()

    def leave(self) -> None:
        """Say goodbye, after which the broker publishes no will, and close."""
        with contextlib.suppress(OSError):
            self._send(b"\xe0", b"")
        self.close()

    def close(self) -> None:
        self._socket.close()

    def _is_pending(self) -> bool:
        """Whether TLS has read something already, which no select would tell."""
        return bool(getattr(self._socket, "pending", int)())

    def _send(self, kind: bytes, body: bytes) -> None:
        self._socket.sendall(kind + _length(len(body)) + body)
        self._last_sent = time.monotonic()

    def _welcome(self) -> None:
        """Wait for CONNACK."""
        end = time.monotonic() + SECONDS
        while len(self._heard) < 4:
            self._socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                self._receive(4 - len(self._heard))
            except TimeoutError:
                raise TimeoutError(f"no answer within {SECONDS:.0f} s") from None
        if self._heard[:2] != CONNACK:
            raise self._nonsense()
        if code := self._heard[3]:
            raise ConnectionRefusedError(f"it refuses us: {REFUSALS.get(code, code)}")
        self._heard = b""
        self._socket.settimeout(SECONDS)

    def _acknowledged(self) -> list[int]:
        """Take apart what was heard, up to what has not come whole."""
        numbers = []
        while len(self._heard) >= 2:
            if self._heard[:2] == PINGRESP and self._pinged is not None:
                self._pinged = None
                self._heard = self._heard[2:]
                continue
            if self._heard[:2] != PUBACK:
                raise self._nonsense()
            if len(self._heard) < 4:
                break
            numbers.append(struct.unpack(">H", self._heard[2:4])[0])
            if numbers[-1] not in self._in_flight:
                raise ConnectionAbortedError("it acknowledges what was not sent")
            self._in_flight.discard(numbers[-1])
            self._heard = self._heard[4:]
        return numbers

    def _nonsense(self) -> OSError:
        return ConnectionAbortedError(f"it sends what nobody asked for: {KINDS[self._heard[0] >> 4]}")

    def _receive(self, most: int) -> None:
        data = self._socket.recv(most)
        if not data:
            raise ConnectionResetError("it closed the connection")
        self._heard += data


def _length(size: int) -> bytes:
    """Seven bits a byte, the lowest first, section 2.2.3."""
    rest, low = divmod(size, 128)
    return bytes([low | 128]) + _length(rest) if rest else bytes([low])


def _text(text: str) -> bytes:
    """Section 1.5.3."""
    encoded = text.encode()
    return struct.pack(">H", len(encoded)) + encoded


def _connect(address: Address, password: str | None, will: tuple[str, str]) -> bytes:
    """What follows the fixed header of CONNECT, section 3.1."""
    flags = 0b0010_1110  # a clean session; a will, QoS 1, retained
    texts = [f"earshot-{secrets.token_hex(6)}", *will]
    if address.user is not None:
        flags |= 0b1000_0000
        texts.append(address.user)
        if password is not None:
            flags |= 0b0100_0000
            texts.append(password)
    return _text("MQTT") + struct.pack(">BBH", 4, flags, KEEPALIVE_SECONDS) + b"".join(map(_text, texts))
