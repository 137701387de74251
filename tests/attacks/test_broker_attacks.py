"""Brokers that mean harm, over real sockets: each harm is kept off, and is done without what keeps it off."""

import itertools
import queue
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from floods import SPEECHES, WELCOME, broker
from lines import Lines
from page import HOP, SILENCE, token_file
from programs import eventually, memory, weakened
from toy import write_bundle

from runtime.sinks.mqtt import Publisher

CONNECTION = "runtime/sinks/mqtt_connection.py"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def fed(listen, tmp_path):
    """fed(changes…, arguments=…): a listener on standard input, whose source has these changes."""
    count = itertools.count()

    def start(*changes: tuple[str, str, str], arguments: tuple[object, ...]) -> Lines:
        program = weakened(tmp_path / f"program{next(count)}", *changes) / "runtime" / "listen.py"
        return Lines(listen(*arguments, "--stdin", script=program, stdin=subprocess.PIPE))

    return start


def hostile(seconds: float, speeches) -> tuple[int, threading.Thread, list[int]]:
    """A broker of this kind in a thread → its port, and how many connections it had in the end."""
    ports: queue.Queue[int] = queue.Queue()
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(broker(seconds, speeches, ports.put)), daemon=True)
    thread.start()
    return ports.get(timeout=10), thread, counts


@pytest.mark.parametrize("speech", SPEECHES)
def test_what_nobody_asked_for_ends_the_connection(speech):
    told: list[str] = []
    port, _, _ = hostile(5, itertools.repeat(SPEECHES[speech]))
    one = Publisher(f"mqtt://127.0.0.1:{port}", discovery=False, warn=told.append)
    try:
        assert eventually(lambda: told), "it went on listening"
        assert "it sends what nobody asked for: " in told[0] or "it acknowledges what was not sent" in told[0], told
    finally:
        one.close()


def test_memory(fed, toy):
    def attack(*changes: tuple[str, str, str]) -> float:
        """MB that it takes more after a few seconds of a PUBLISH that claims 256 MB."""
        go = threading.Event()
        port, thread, _ = hostile(2, iter(lambda: SPEECHES["PUBLISH of 256 MB"] if go.wait() else b"", None))
        lines = fed(*changes, arguments=(toy, "--mqtt", f"mqtt://127.0.0.1:{port}"))
        lines.feed(HOP * 20, SILENCE * 20)
        lines.until(10, keyword="loud")
        before = memory(lines.process.pid)
        go.set()
        thread.join()
        more = memory(lines.process.pid) - before
        lines.feed(HOP * 20, SILENCE)
        lines.until(10, keyword="loud")
        lines.end()
        return more

    assert attack() < 3
    check = "if self._heard[:2] != PUBACK:\n                "
    assert attack((CONNECTION, "AT_ONCE = 4096", "AT_ONCE = 65536"),
                  (CONNECTION, f"{check}raise self._nonsense()\n", f"{check}break\n")) > 6


def test_a_broker_that_misbehaves_at_once_is_tried_ever_more_seldom(fed, toy):
    def attack(*changes: tuple[str, str, str]) -> int:
        """Connections in two and a half seconds, of which the listener takes some to start."""
        port, thread, counts = hostile(2.5, itertools.repeat(SPEECHES["CONNACK"]))
        lines = fed(*changes, arguments=(toy, "--mqtt", f"mqtt://127.0.0.1:{port}"))
        thread.join()
        lines.feed(SILENCE)
        lines.end()
        return counts[0]

    assert attack() <= 3
    assert attack(("runtime/sinks/mqtt.py", "is_steady = lost and time.monotonic() - began > STEADY_SECONDS",
                   "is_steady = lost")) > 3


def passwords(listening: socket.socket, found: "queue.Queue[bytes]") -> None:
    """A broker that keeps what it is told."""
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            found.put(connection.recv(4096))
            connection.sendall(WELCOME)
            while connection.recv(4096):
                pass


def test_a_changed_password_is_the_password_after_a_reload(fed, toy, tmp_path):
    def attack(*changes: tuple[str, str, str]) -> bytes:
        """What the broker is told after the reload, if anything."""
        found: queue.Queue[bytes] = queue.Queue()
        password = token_file(tmp_path / "password", "first word")
        with socket.create_server(("127.0.0.1", 0)) as listening:
            threading.Thread(target=passwords, args=(listening, found), daemon=True).start()
            lines = fed(*changes, arguments=(toy, "--mqtt", f"mqtt://kitchen@127.0.0.1:{listening.getsockname()[1]}",
                                             "--mqtt-password-file", password))
            assert b"first word" in found.get(timeout=10)
            token_file(password, "second word")
            assert lines.reload()["event"] == "reloaded"
            try:
                return found.get(timeout=1)
            except queue.Empty:
                return b""
            finally:
                lines.end()
                listening.shutdown(socket.SHUT_RDWR)

    assert b"second word" in attack()
    assert attack(("runtime/sinks/opened.py", '("mqtt", "mqtt_password", "no_mqtt_discovery")',
                   '("mqtt", "mqtt_password_file", "no_mqtt_discovery")')) == b""


@pytest.mark.parametrize(("url", "is_told"), [
    ("mqtt://kitchen@127.0.0.1:1", False), ("mqtt://kitchen@localhost:1", False),
    ("mqtts://kitchen@192.0.2.1:1", False), ("mqtt://kitchen@192.0.2.1:1", True)])
def test_a_password_that_everybody_could_read_is_told(url, is_told):
    told: list[str] = []
    one = Publisher(url, password="secret word", warn=told.append)
    one.close()
    assert any("the password goes there unencrypted: use mqtts://" in line for line in told) == is_told
    assert not any("secret word" in line for line in told)
