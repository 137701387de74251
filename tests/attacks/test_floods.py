"""Everything at once: floods against dashboard and Wyoming server, and a hostile broker, while a recording plays on.

    .venv/bin/python -m pytest tests/attacks/test_floods.py -m slow -s      # ten minutes; prints what was measured
"""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from floods import AUDIO, message
from page import TOKEN, token_file
from programs import cpu, memory
from toy import write_bundle
from wake_server import WakeServer

from runtime.bundle.detector import Detector
from runtime.bundle.engine import Engine

FLOODS = Path(__file__).with_name("floods.py")
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
HOP = 1280
HOP_SECONDS = 0.08
QUIET_SECONDS = 2  # before the floods, for what is measured to settle
Found = list[tuple[str, float]]  # keyword, and seconds of audio up to the end of the hop that detected it


def speech(bundle: Path) -> np.ndarray:
    """Other words, and what this bundle takes for its keyword, three times in 17 s: (hops, HOP) int16."""
    rng = np.random.default_rng(0)
    track = []
    for other in ("other_flite_sentence", "other_espeak_seven", "other_flite_puppy"):
        for path in (FIXTURES / f"{other}.wav", bundle / "keywords.wav"):
            with wave.open(str(path)) as file:
                track.append(np.frombuffer(file.readframes(file.getnframes()), "<i2"))
            track.append(rng.normal(0, 30, 12800).astype("<i2"))
    joined = np.concatenate(track)
    return joined[: len(joined) // HOP * HOP].reshape(-1, HOP)


def tones(_: Path) -> np.ndarray:
    """What the toy bundle detects, once in two seconds."""
    tone = (0.5 * 32767 * np.sin(np.arange(6 * HOP))).reshape(6, HOP)
    return np.concatenate([np.zeros((16, HOP)), tone, np.zeros((3, HOP))]).astype("<i2")


def expected(bundle: Path, hops: list[np.ndarray]) -> Found:
    engine = Engine(bundle)
    detector = Detector(engine.thresholds, engine.refractory_hops)
    return [(engine.keywords[keyword], round((number + 1) * HOP_SECONDS, 3)) for number, hop in enumerate(hops)
            for keyword in detector.step(engine.step((hop / np.float32(32768)).astype(np.float32)))]


@contextlib.contextmanager
def repeated(act: Callable[[], object], seconds: float) -> Iterator[None]:
    """act() in a thread, again and again with so many seconds between two."""
    end = threading.Event()

    def run() -> None:
        while not end.wait(seconds):
            act()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    end.set()
    thread.join()


class Talk:
    """A connection to the Wyoming server that is in earnest."""

    def __init__(self, port: int) -> None:
        self.found: Found = []
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._sent = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, hop: np.ndarray) -> None:
        self._sent += 1
        self._socket.sendall(message("audio-chunk", hop.tobytes(), timestamp=80 * self._sent, **AUDIO))

    def _read(self) -> None:
        with self._socket.makefile("rb") as file:
            for line in file:
                data = json.loads(file.read(json.loads(line)["data_length"]))
                self.found.append((data["name"], data["timestamp"] / 1000))

    def stop(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)
        self._reader.join(10)
        assert not self._reader.is_alive()


class Player:
    """Feeds a listener and a Wyoming connection in real time. late: seconds until the listener told each detection."""

    def __init__(self, loop: np.ndarray, listener: subprocess.Popen, talk: Talk) -> None:
        self.fed: list[np.ndarray] = []
        self.found: Found = []
        self.late: list[float] = []
        self._loop, self._listener, self._talk = loop, listener, talk
        self._began = time.monotonic()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=act, daemon=True) for act in (self._feed, self._read)]
        for thread in self._threads:
            thread.start()

    def _feed(self) -> None:
        while not self._end.wait(max(0, self._began + HOP_SECONDS * (len(self.fed) + 1) - time.monotonic())):
            hop = self._loop[len(self.fed) % len(self._loop)]
            self.fed.append(hop)
            self._listener.stdin.write(hop.tobytes())
            self._listener.stdin.flush()
            self._talk.send(hop)

    def _read(self) -> None:
        for line in self._listener.stdout:
            told = json.loads(line)
            if "keyword" in told:
                self.found.append((told["keyword"], told["time_s"]))
                self.late.append(time.monotonic() - self._began - told["time_s"])

    def stop(self) -> None:
        """Until all that was fed is heard."""
        self._end.set()
        self._threads[0].join()
        self._talk.stop()
        self._listener.stdin.close()
        self._listener.stdin = None
        assert self._listener.wait(20) == 0
        self._threads[1].join()


class Viewer:
    """Somebody who looks at the dashboard, from an address of his own. slowest: seconds that an answer took."""

    def __init__(self, port: int) -> None:
        self.slowest = 0.0
        self.answers = 0
        self._port = port

    def look(self) -> dict:
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20, source_address=("127.0.0.9", 0))
        connection.request("GET", "/state", headers={"Authorization": f"Bearer {TOKEN}"})
        state = json.load(connection.getresponse())
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.answers += 1
        return state


def flooding(kind: str, port: int, seconds: float) -> subprocess.Popen:
    """As nice as on a machine of its own: who attacks over a network takes nothing of our processor."""
    return subprocess.Popen(["nice", "-n", "19", sys.executable, FLOODS, kind, str(port), str(seconds)],
                            stdout=subprocess.PIPE)


@pytest.mark.parametrize("seconds", [8, pytest.param(600, marks=pytest.mark.slow)])
def test_all_at_once(listen, tmp_path, request, seconds):
    is_long = seconds > 60
    bundle = request.getfixturevalue("shipped") if is_long else write_bundle(tmp_path / "bundle")
    broker = flooding("broker", 0, seconds + 2 * QUIET_SECONDS)
    listener = listen(bundle, "--stdin", "--dashboard", "127.0.0.1:0", "--dashboard-token-file",
                      token_file(tmp_path / "token"), "--mqtt", f"mqtt://127.0.0.1:{int(broker.stdout.readline())}",
                      stdin=subprocess.PIPE)
    port = next(told["port"] for line in listener.stdout if (told := json.loads(line))["event"] == "dashboard")
    server = WakeServer(tmp_path / "log", "--bundle", bundle)
    pids = {"listener": listener.pid, "Wyoming server": server.process.pid}
    viewer, talk = Viewer(port), Talk(server.port)
    try:
        loop = (speech if is_long else tones)(bundle)
        player = Player(loop, listener, talk)
        with repeated(viewer.look, 0.5):
            time.sleep(QUIET_SECONDS)
            before = {name: memory(pid) for name, pid in pids.items()}
            busy = {name: cpu(pid, QUIET_SECONDS) for name, pid in pids.items()}
            most = dict(before)

            def measure() -> None:
                most.update({name: max(most[name], memory(pid)) for name, pid in pids.items()})

            with repeated(measure, 0.2):
                floods = [flooding("dashboard", port, seconds), flooding("wyoming", server.port, seconds)]
                at_it = {name: cpu(pid, seconds / 4) for name, pid in pids.items()}
                opened = [int(flood.communicate()[0]) for flood in floods]
                broker.wait()
                time.sleep(1)
                after = {name: cpu(pid, QUIET_SECONDS) for name, pid in pids.items()}
        events = viewer.look()["counters"]
        player.stop()
    finally:
        broker.kill()
        server.end()
    print(f"\n{seconds} s: connections {opened}, to the broker {broker.stdout.read().decode().strip()}\n{events}\n"
          f"memory before {before}, at most {most}\nprocessor before {busy}, at it {at_it}, after {after}\n"
          f"detections {len(player.found)}, told within {max(player.late):.2f} s\n"
          f"dashboard answered {viewer.answers} times, within {viewer.slowest:.2f} s")
    wanted = expected(bundle, player.fed)
    assert len(wanted) >= (3 if is_long else 1) * (len(player.fed) // len(loop))  # every keyword that was said
    assert player.found == wanted and talk.found == wanted
    assert all(most[name] < before[name] + 10 for name in pids)
    assert all(after[name] < busy[name] + 0.05 for name in pids)
    assert min(opened) > 10 * seconds and max(player.late) < 1 and viewer.slowest < 5
