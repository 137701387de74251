"""Detections → an MQTT broker, and from there into Home Assistant, which finds the device by its discovery messages.

    publisher = Publisher("mqtt://kitchen@broker.local/earshot/kitchen", keywords=["happy"], password=secret)
    publisher.publish({"keyword": "happy", "time_s": 12.48, "score": 0.572})

Topics, below the prefix of the URL (`earshot` where it has none; every device needs its own):

    <prefix>/status              online or offline, retained; the broker itself says offline when the device is gone
    <prefix>/detected/<keyword>  one JSON object per detection: the event's fields and "event_type": "detected"
    <prefix>/event               events that name no keyword

Home Assistant gets an event entity and a device trigger per keyword. While the broker is away, events wait, up to
`QUEUE`; one that waited says so in "late_s", in seconds, so that no automation need act on an old word. An event is
kept until the broker has acknowledged it: none is lost, and one may come twice when a connection breaks in between.
What a broker may say, and no more, is in `mqtt_connection`.
"""

import contextlib
import hashlib
import ipaddress
import json
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from runtime.errors import OptionsError
from runtime.sinks.mqtt_connection import Address, Connection
from runtime.sinks.sink import Sink

QUEUE = 1000  # events that wait for the broker; when there are more, the oldest go
LARGEST_EVENT = 16 << 10  # characters of JSON
IN_FLIGHT = 20  # events sent and not yet acknowledged
FIRST_DELAY = 0.5  # seconds to the next attempt to connect, doubled each time up to the longest
LONGEST_DELAY = 10.0
STEADY_SECONDS = 10.0  # a connection that held for so long is tried again soon, one that did not ever more seldom
LATE_SECONDS = 2.0
CLOSE_SECONDS = 1.0  # for what still waits, and for saying goodbye
DISCOVERY = "homeassistant"  # the prefix at which Home Assistant looks by default


class _Message(NamedTuple):
    born: float  # time.monotonic()
    topic: str
    payload: str


def parse_url(url: str) -> Address:
    """mqtt://[USER@]HOST[:PORT][/PREFIX], or mqtts:// with TLS. Raises OptionsError."""

    def check(good: bool, problem: str) -> None:
        if not good:
            shown = url.rpartition("@")[2][:80]  # what stands before @ may hold a password
            raise OptionsError(f"MQTT address {json.dumps(shown)}: {problem}: "
                            "write it as mqtt://[USER@]HOST[:PORT][/PREFIX], or mqtts:// for TLS")

    check(len(url) <= 500, "is too long")
    check(url.isprintable() and " " not in url, "holds a space or a character that cannot be printed")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:  # UnicodeError too
        host, port = "", None
        check(False, "has no good host or port")
    check(parts.scheme in ("mqtt", "mqtts"), "does not begin with mqtt:// or mqtts://")
    check(parts.password is None, "must not hold the password, which everybody could see; give it apart")
    check(re.fullmatch(r"[^\s/@\[\]%]+(%\w+)?", host) is not None, "has no good host")
    check(port != 0, "has no good port")
    check(not set(url) & set("?#"), "holds ? or #")
    user = None if parts.username is None else unquote(parts.username)
    check(user is None or (user != "" and user.isprintable()), "has no good user")
    prefix = unquote(parts.path).strip("/") or "earshot"
    check(_is_topic(prefix), "has no good prefix")
    tls = parts.scheme == "mqtts"
    return Address(host, port or (8883 if tls else 1883), tls, user, prefix)


def _is_topic(text: str) -> bool:
    return text.isprintable() and not re.search(r"[+#]|^\$|^/|//|/$|^$", text) and len(text.encode()) <= 200


def _slug(text: str) -> str:
    """A name of ASCII letters, digits, - and _ that differs where the texts do."""
    plain = re.sub(r"[^a-z0-9_-]+", "_", text.lower())[:40]
    return plain if plain == text else f"{plain}_{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:6]}"


def topic_of(prefix: str, event: Mapping[str, Any]) -> str:
    keyword = event.get("keyword")
    return f"{prefix}/detected/{_slug(keyword)}" if isinstance(keyword, str) else f"{prefix}/event"


def discovery_messages(prefix: str, keywords: Sequence[str], name: str) -> list[tuple[str, dict[str, Any]]]:
    """What Home Assistant wants to know: (topic, JSON object), to be retained by the broker.

    https://www.home-assistant.io/integrations/event.mqtt and device_trigger.mqtt
    """
    node = f"earshot_{_slug(prefix)}"
    device = {"identifiers": [node], "name": name, "manufacturer": "Earshot", "model": "Keyword detector"}
    messages: list[tuple[str, dict[str, Any]]] = []
    for keyword in keywords:
        topic, slug = topic_of(prefix, {"keyword": keyword}), _slug(keyword)
        messages.append((f"{DISCOVERY}/event/{node}/{slug}/config", {
            "name": keyword, "unique_id": f"{node}_{slug}", "state_topic": topic, "event_types": ["detected"],
            "availability_topic": f"{prefix}/status", "icon": "mdi:account-voice", "qos": 1, "device": device}))
        messages.append((f"{DISCOVERY}/device_automation/{node}/{slug}/config", {
            "automation_type": "trigger", "type": "detected", "subtype": keyword, "topic": topic, "qos": 1,
            "device": device}))
    return messages


def _is_this_machine(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class Publisher(Sink):
    """Sends events from a thread of its own, connects again with growing pauses, and never holds up the audio.

    url: see `parse_url`. keywords, name: for Home Assistant. warn: told in one line, from the other thread, when the
    broker goes or comes.

    connected: whether the broker answers. dropped: events that had no room or are no JSON. sent: acknowledged ones.
    Raises OptionsError.
    """

    def __init__(self, url: str, keywords: Sequence[str] = (), name: str = "Earshot",
                 password: str | None = None, discovery: bool = True,
                 warn: Callable[[str], None] | None = None) -> None:
        self.address = parse_url(url)
        if password is not None and self.address.user is None:
            raise OptionsError("MQTT password: is given without a user: write the address as mqtt://USER@HOST")
        if password is not None and not (password.isprintable() and len(password) <= 1000):
            raise OptionsError("MQTT password: holds a character that cannot be printed, or is too long")
        self.connected = False
        self.dropped = 0
        self.sent = 0
        self._password = password
        self._discovery = discovery_messages(self.address.prefix, keywords, name) if discovery else []
        self._warn = warn or (lambda message: None)
        self._warned = False
        if password is not None and not self.address.tls and not _is_this_machine(self.address.host):
            self._tell(f"broker {self.address.host}: the password goes there unencrypted: use mqtts://")
        self._lock = threading.Lock()  # of the two queues and the counters
        self._waiting: deque[_Message] = deque()
        self._in_flight: dict[int, _Message] = {}  # by the number the broker acknowledges it with
        self._closing = threading.Event()
        self._close_by = 0.0
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def publish(self, detection: Mapping[str, Any]) -> None:
        """Send it, now or when the broker is back. Never blocks and never raises: what cannot be is counted."""
        try:
            payload = json.dumps({**detection, "event_type": "detected"}, allow_nan=False)
            message = _Message(time.monotonic(), topic_of(self.address.prefix, detection), payload)
        except Exception:  # anything can be in a detection
            payload = ""
        with self._lock:
            if not payload or len(payload) > LARGEST_EVENT or self._closing.is_set():
                self.dropped += 1
                return
            if len(self._waiting) + len(self._in_flight) >= QUEUE:
                self.dropped += 1
                if not self._waiting:
                    return
                self._waiting.popleft()
            self._waiting.append(message)
        self._wake()

    def close(self) -> None:
        """Send what waits, say that the device is offline, and end; within two seconds, whatever the broker does."""
        with self._lock:  # an event is either before this, and may still go, or after, and is counted as dropped
            self._close_by = time.monotonic() + CLOSE_SECONDS
            self._closing.set()
        self._wake()
        self._thread.join(2 * CLOSE_SECONDS if self.connected else 0.1)  # whom there is nobody to say goodbye to, ends
        with self._lock:
            self.dropped += len(self._waiting) + len(self._in_flight)
            self._waiting.clear()
            self._in_flight.clear()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake already; closed: it has ended
            self._wake_write.send(b"!")

    # The thread

    def _run(self) -> None:
        delay = FIRST_DELAY
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                self._talk()
                break
            except Exception as error:  # whatever it is, the next connection may do
                reason = " ".join((str(error) or type(error).__name__).split())[:200]
            if self._closing.is_set():
                break
            lost, self.connected = self.connected, False
            with self._lock:  # what was not acknowledged goes first the next time, in the order it came
                self._waiting.extendleft(reversed(self._in_flight.values()))
                self._in_flight.clear()
            if lost or not self._warned:
                self._warned = True
                self._tell(f"broker {self.address.host}:{self.address.port}: away ({reason}), trying on")
            is_steady = lost and time.monotonic() - began > STEADY_SECONDS
            self._closing.wait(FIRST_DELAY if is_steady else delay)
            delay = FIRST_DELAY if is_steady else min(2 * delay, LONGEST_DELAY)
        self._wake_read.close()
        self._wake_write.close()

    def _tell(self, message: str) -> None:
        with contextlib.suppress(Exception):  # a listener of ours must not end this thread
            self._warn("".join(c if c.isprintable() else "?" for c in message))

    def _talk(self) -> None:
        """One connection, from its beginning to its end; returns when it was we who ended it."""
        status = f"{self.address.prefix}/status"
        connection = Connection(self.address, self._password, (status, "offline"))
        try:
            if self._closing.is_set():  # whoever comes after this one may have said already that it is online
                connection.leave()
                return
            for topic, message in self._discovery:
                connection.publish(topic, json.dumps(message), retain=True)
            connection.publish(status, "online", retain=True)
            self.connected = True
            if self._warned:
                self._warned = False
                self._tell(f"broker {self.address.host}:{self.address.port}: connected")
            while not self._closing.is_set() or (self._owes() and time.monotonic() < self._close_by):
                self._send(connection)
                self._acknowledged(connection.hear(0.2 if self._closing.is_set() else 5.0, self._wake_read))
                with contextlib.suppress(BlockingIOError):
                    self._wake_read.recv(4096)
            connection.publish(status, "offline", retain=True)
            connection.leave()
        finally:
            connection.close()

    def _owes(self) -> bool:
        with self._lock:
            return bool(self._waiting or self._in_flight)

    def _send(self, connection: Connection) -> None:
        while len(self._in_flight) < IN_FLIGHT:
            with self._lock:
                if not self._waiting:
                    return
                message = self._waiting.popleft()
            late = time.monotonic() - message.born
            payload = message.payload
            if late > LATE_SECONDS:
                payload = json.dumps({**json.loads(payload), "late_s": round(late, 1)})
            try:
                number = connection.publish(message.topic, payload)
            except BaseException:
                with self._lock:
                    self._waiting.appendleft(message)
                raise
            with self._lock:  # acknowledgements are read by this thread, so none has come before this
                self._in_flight[number] = message

    def _acknowledged(self, numbers: list[int]) -> None:
        with self._lock:
            for number in numbers:
                if self._in_flight.pop(number, None) is not None:
                    self.sent += 1
