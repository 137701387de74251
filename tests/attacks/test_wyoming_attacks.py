"""Who means harm to the Wyoming server, over real sockets: what keeps each harm off, and that it is done without."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from floods import AUDIO, message
from programs import descriptors, eventually, memory, weakened
from test_endless import at_every_step
from test_memory import SIZES
from test_trial import QUICK
from toy import write_bundle
from wake_server import WakeServer

FLOODS = Path(__file__).with_name("floods.py")
HOME = "edge_demo/home_assistant"
SERVER, TALK, MESSAGES = (f"{HOME}/{name}.py" for name in ("wyoming_server", "conversation", "messages"))
LOUD = (0.5 * 32767 * np.sin(np.arange(8000))).astype("<i2").tobytes()


@pytest.fixture
def server(tmp_path):
    """server(changes…): the program, whose source has these changes."""
    bundle = write_bundle(tmp_path / "bundle")
    started: list[WakeServer] = []

    def start(*changes: tuple[str, str, str]) -> WakeServer:
        folder = weakened(tmp_path / f"program{len(started)}", *changes)
        script = folder / "edge_demo" / "home_assistant" / "wyoming_server.py"
        started.append(WakeServer(folder / "log", "--bundle", bundle, script=script))
        return started[-1]

    yield start
    for one in started:
        one.end()


class Client:
    """One connection, from that address."""

    def __init__(self, server: WakeServer, address: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), 20, source_address=(address, 0))
        self._file = self.socket.makefile("rb")

    def ask(self, data: bytes) -> str:
        """The type of the message that comes back, "" when the connection has ended."""
        try:
            self.socket.sendall(data)
            header = json.loads(self._file.readline() or b'{"type": ""}')
            self._file.read(header.get("data_length") or 0)
            return header["type"]
        except ConnectionError:
            return ""

    def detects(self) -> bool:
        return self.ask(message("audio-start", **AUDIO) + message("audio-chunk", LOUD, **AUDIO)) == "detection"


@contextlib.contextmanager
def clients(server: WakeServer, count: int, address: str = "127.0.0.1") -> Iterator[list[Client]]:
    made: list[Client] = []
    try:
        for _ in range(count):
            made.append(Client(server, address))
        yield made
    finally:
        for one in made:
            one.socket.close()


# Turns

TURN = "            await asyncio.sleep(0)  # let other connections run, even if this one never pauses\n"


@pytest.mark.parametrize("kind", ["describe", "talk"])
def test_those_who_send_without_pause(server, kind):
    def attack(target: WakeServer) -> float:
        """Seconds that somebody else waits for an answer, at worst of five times."""
        with clients(target, 1) as (one,):
            assert one.detects()
            command = [sys.executable, FLOODS, kind, str(target.port), "4"]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as flooding:
                time.sleep(0.5)
                worst = 0.0
                for _ in range(5):
                    began = time.monotonic()
                    assert one.ask(message("ping")) == "pong"
                    worst = max(worst, time.monotonic() - began)
                flooding.terminate()
            return worst

    worst = attack(server())
    assert worst < 0.5
    if kind == "describe":
        assert attack(server((TALK, TURN, ""))) > 3 * worst


# Places

NO_ROOM = (SERVER, "        self._make_room(conversation.client)\n", """        if len(self._open) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
""")
NO_WORTH = (TALK, "time.monotonic() - self._last_audio < STREAM_SECONDS", "False")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_those_who_say_nothing_lock_out_nobody(server, address):
    def attack(target: WakeServer) -> bool:
        with clients(target, 40, address), clients(target, 1) as (one,):
            return one.detects()

    real = server()
    assert attack(real)
    assert not attack(server(NO_ROOM))
    with clients(real, 40, "127.0.0.2"), clients(real, 40, "127.0.0.3"), clients(real, 1) as (one,):
        assert one.detects() and descriptors(real.process.pid) < 60


def test_one_that_sends_audio_stays(server):
    def attack(target: WakeServer) -> bool:
        with clients(target, 1) as (one,):
            assert one.detects()
            with clients(target, 100):
                return one.detects()

    assert attack(server())
    assert not attack(server(NO_WORTH))


def test_who_says_nothing_for_long_is_hung_up_on(server):
    def attack(target: WakeServer) -> bool:
        """Whether one that never said anything and one that once did are gone in a second."""
        with clients(target, 2) as (silent, asked):
            assert asked.ask(message("ping")) == "pong"
            time.sleep(1)
            return silent.ask(message("ping")) == asked.ask(message("ping")) == ""

    soon = [(MESSAGES, "MESSAGE_SECONDS = 30.0", "MESSAGE_SECONDS = 0.4"),
            (MESSAGES, "IDLE_SECONDS = 300.0", "IDLE_SECONDS = 0.6")]
    assert attack(server(*soon))
    assert not attack(server(*soon, (MESSAGES, "asyncio.timeout(patience)", "asyncio.timeout(None)")))


def test_who_does_not_read_is_let_go_of(server):
    def attack(target: WakeServer) -> int:
        """Connections that are still held when ten, who have read nothing of many answers, were hung up on."""
        before = descriptors(target.process.pid)
        with clients(target, 10) as many:
            for one in many:
                one.socket.settimeout(0.1)
                with contextlib.suppress(OSError):
                    one.socket.sendall(message("describe") * 50_000)
            eventually(lambda: len(target.log) > 10 and descriptors(target.process.pid) == before, 3)
            return descriptors(target.process.pid) - before

    soon = (MESSAGES, "MESSAGE_SECONDS = 30.0", "MESSAGE_SECONDS = 0.5")
    assert attack(server(soon, (SERVER, "CLOSE_SECONDS = 5.0", "CLOSE_SECONDS = 0.5"))) == 0
    end = "            self._open.pop(task, None)\n"
    assert attack(server(soon, (SERVER, f"{end}            writer.transport.abort()\n", end))) == 10


# Bundles


def test_a_bundle_whose_step_never_ends(tmp_path):
    """As far as the scan knows, when this is taken out of it."""
    at_every_step(tmp_path / "bundle")
    weak = [("runtime/bundle/onnx_sizes.py", old, new) for old, new in SIZES] + [("runtime/bundle/trial.py", *QUICK)]

    def attack(name: str, *changes: tuple[str, str, str]) -> str:
        """What it says; nothing when it does not end."""
        script = weakened(tmp_path / name, *weak, *changes) / SERVER
        command = [sys.executable, script, "--bundle", tmp_path / "bundle", "--uri", "tcp://127.0.0.1:0"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=30).stderr
        except subprocess.TimeoutExpired:
            return ""

    assert "its trial took more than 1 s" in attack("real")
    assert not attack("weak", (SERVER, ", try_out(folder, options.model)", ""))


# Memory, and the disk that lines go to


def test_messages_without_end(server):
    def attack(target: WakeServer, size: int, claimed: int) -> float:
        """MB that it takes to hold 16 messages of which a part has come."""
        before = memory(target.process.pid)
        with clients(target, 16) as many:
            for one in many:
                one.socket.settimeout(1)
                with contextlib.suppress(OSError):
                    one.socket.sendall(message("audio-chunk", bytes(size), claimed, **AUDIO))
            time.sleep(0.2)
            return memory(target.process.pid) - before

    real = server()
    assert attack(real, 1_000_000, 1 << 20) < 4 and attack(real, 4_000_000, 64 << 20) < 4
    weak = server((MESSAGES, "PIECE = 16 << 10", "PIECE = 16 << 20"), (TALK, "self.format.rate // PIECES, ", "10**9, "))
    assert attack(weak, 1_000_000, 1 << 20) > 12


def test_streams_share_the_model(server):
    def attack(target: WakeServer) -> float:
        before = memory(target.process.pid)
        with clients(target, 16) as many:
            assert all(one.detects() for one in many)
            return memory(target.process.pid) - before

    weak = (TALK, "Listening(engine.stream(), self.thresholds[folder])",
            "Listening(Engine(folder), self.thresholds[folder])")
    assert attack(server(weak)) > 2 * attack(server())  # though this model is tiny


def test_lines_do_not_fill_the_disk(server):
    def attack(target: WakeServer) -> int:
        for _ in range(300):
            with clients(target, 1) as (one,), contextlib.suppress(OSError):
                one.ask(b"nonsense\n")
        return len(target.log)

    assert attack(server()) < 150
    assert attack(server((SERVER, "LINES = 100", "LINES = 10**6"))) > 290
