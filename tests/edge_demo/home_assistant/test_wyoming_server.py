"""The server as a process, and the wyoming package's own client on the other side of a real socket."""

import asyncio
import json
import re
import signal
import socket
import struct
import time
from collections.abc import Callable

import numpy as np
import pytest
from fuzz import fuzz, in_batches
from hypothesis import strategies as st
from toy import CURVE, write_bundle
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.wake import Detect, Detection, NotDetected

RATE = 16_000


@pytest.fixture(scope="module")
def server(start, tmp_path_factory):
    """For `loud`, and in a second bundle `deafening` with a threshold that nothing here reaches."""
    folder = tmp_path_factory.mktemp("bundles")
    loud = write_bundle(folder / "loud")
    return start("--bundle", loud, write_bundle(folder / "more", keywords=["deafening"], threshold=[1.0]))


def client(server) -> AsyncClient:
    return AsyncClient.from_uri(f"tcp://127.0.0.1:{server.port}", read_timeout=10)


def sound(*loudness: float, rate: int = RATE) -> np.ndarray:
    """Half a second of a tone of each loudness; `loud` is one from about 0.35 on."""
    return np.concatenate([level * np.sin(2 * np.pi * 440 / rate * np.arange(rate // 2)) for level in loudness])


def pcm(samples: np.ndarray, width: int = 2, channels: int = 1) -> bytes:
    """Of two channels one is silent and the other twice as loud: their mean is the sound."""
    weights = [0, 2] if channels == 2 else [1] * channels
    frames = np.clip(samples[:, None] * weights, -1, 1 - 2**-31)
    if width == 1:
        return (np.round(frames * 127) + 128).astype(np.uint8).tobytes()
    whole = (frames * 2**31).astype("<i4")
    return whole.tobytes() if width == 4 else whole.view(np.uint8).reshape(-1, 4)[:, 4 - width :].tobytes()


async def send(to: AsyncClient, audio: bytes, rate=RATE, width=2, channels=1, names=None, times=True) -> list[Event]:
    """Audio in chunks of 64 ms → the answers up to a ping behind it."""
    if names is not None:
        await to.write_event(Detect(names=names).event())
    await to.write_event(AudioStart(rate, width, channels).event())
    step = rate * 64 // 1000 * width * channels
    for start in range(0, len(audio), step):
        when = start * 1000 // (rate * width * channels) if times else None
        await to.write_event(AudioChunk(rate, width, channels, audio[start : start + step], when).event())
    await to.write_event(AudioStop().event())
    await to.write_event(Ping(text="end").event())
    answers = []
    while (event := await to.read_event()) is not None and not Pong.is_type(event.type):
        answers.append(event)
    return answers


def once(server, *arguments, **options) -> list[Event]:
    async def run():
        async with client(server) as to:
            return await send(to, *arguments, **options)

    return asyncio.run(run())


def alive(server) -> bool:
    return [event.data["name"] for event in once(server, pcm(sound(0, 0.5)))] == ["loud"]


def test_it_says_what_it_knows(server):
    async def run():
        async with client(server) as to:
            await to.write_event(Describe().event())
            return Info.from_event(await to.read_event())

    (program,) = asyncio.run(run()).wake
    assert program.name == "earshot" and program.installed
    assert [(model.name, model.phrase, model.installed) for model in program.models] == [
        ("loud", "loud", True), ("deafening", "deafening", True)]


def test_a_detection_tells_which_keyword_and_in_which_chunk(server):
    (answer,) = once(server, pcm(sound(0, 0.5)))
    detection = Detection.from_event(answer)
    assert detection.name == "loud"
    assert 500 <= detection.timestamp <= 800 and detection.timestamp % 64 == 0  # the sound begins at 500 ms
    (answer,) = once(server, pcm(sound(0, 0.5)), times=False)  # the end of its chunk, since audio-start
    assert 0 <= Detection.from_event(answer).timestamp - detection.timestamp <= 128


def test_silence_is_not_detected(server):
    (answer,) = once(server, pcm(sound(0.01, 0)))
    assert NotDetected.is_type(answer.type)
    assert [event.type for event in once(server, b"")] == ["not-detected"]


def test_the_refractory_time_and_the_next_event(server):
    answers = once(server, pcm(sound(0.5, 0.5, 0, 0, 0, 0, 0.5)))
    assert [event.type for event in answers] == ["detection"] * 2


def test_each_audio_of_a_connection_starts_from_silence(server):
    async def run():
        async with client(server) as to:
            return [[e.type for e in await send(to, pcm(sound(level)))] for level in (0.5, 0.01, 0.5, 0.5)]

    assert asyncio.run(run()) == [["detection"], ["not-detected"], ["detection"], ["detection"]]


def test_the_rest_of_a_hop_is_heard(server):
    assert [e.type for e in once(server, pcm(sound(0.9))[:1600])] == ["detection"]  # 50 ms: shorter than any hop


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000, 192_000])
@pytest.mark.parametrize(("width", "channels"), [(1, 1), (2, 1), (2, 2), (3, 1), (4, 2), (2, 6)])
def test_any_format_is_converted(server, rate, width, channels):
    (answer,) = once(server, pcm(sound(0, 0.45, rate=rate), width, channels), rate, width, channels)
    assert Detection.is_type(answer.type) and 500 <= answer.data["timestamp"] <= 900


def test_a_format_may_change_on_the_way(server):
    async def run():
        async with client(server) as to:
            for rate, width in ((16_000, 2), (48_000, 4)):
                await to.write_event(AudioChunk(rate, width, 1, pcm(sound(0.45, rate=rate), width)).event())
            await to.write_event(AudioStop().event())
            return await to.read_event()

    assert Detection.is_type(asyncio.run(run()).type)


@pytest.mark.parametrize("names", [["loud"], ["LOUD "], ["deafening", "loud"], []])
def test_names_choose(server, names):
    assert [e.data.get("name") for e in once(server, pcm(sound(0.5)), names=names)] == ["loud"]


def test_other_names_are_not_told(server):
    assert [e.type for e in once(server, pcm(sound(0.5)), names=["deafening"])] == ["not-detected"]


def test_a_keyword_nobody_has_is_told_and_ends_the_connection(server):
    async def run():
        async with client(server) as to:
            await to.write_event(Detect(names=["hey_jarvis"]).event())
            return await to.read_event(), await to.read_event()

    error, end = asyncio.run(run())
    assert Error.from_event(error).text == 'no keyword "hey_jarvis": choose from loud, deafening' and end is None
    assert alive(server)


def test_many_connections_at_once_do_not_hear_each_other(server):
    async def one(level: float) -> list[str]:
        async with client(server) as to:
            return [event.type for event in await send(to, pcm(sound(*[level] * 6)))]

    async def run():
        return await asyncio.gather(*(one(level) for level in [0.5, 0.01] * 8))

    assert asyncio.run(run()) == [["detection"], ["not-detected"]] * 8


# Malformed


def talk(server, data: bytes) -> bytes:
    """Send bytes and no more → all that is answered."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as to:
        try:
            to.sendall(data)
            to.shutdown(socket.SHUT_WR)
            answer = b""
            while more := to.recv(1 << 16):
                answer += more
        except OSError:  # it had seen enough before we had said it all
            return b""
        return answer


def message(kind: object, data: object = None, payload: bytes = b"", /, **header: object) -> bytes:
    body = json.dumps(data).encode() if data is not None else b""
    sizes = {"data_length": len(body), "payload_length": len(payload)}
    return json.dumps({"type": kind, **sizes, **header}).encode() + b"\n" + body + payload


CHUNK = {"rate": RATE, "width": 2, "channels": 1}


@pytest.mark.parametrize(("data", "reason"), [
    (b"\n", "not JSON"),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not JSON"),
    (b"\xff\xfe\n", "not JSON"),
    (b"[" * 15_000 + b"\n", "not JSON"),
    (b'{"type": "ping", "data_length": ' + b"9" * 5000 + b"}\n", "not JSON"),
    (b"[1]\n", "not a JSON object"),
    (b"{}\n", "no type"),
    (message(7), "no type"),
    (message("ping", data_length=1 << 40), "data_length"),
    (message("ping", data_length=-1), "data_length"),
    (message("ping", data_length=1.5), "data_length"),
    (message("ping", data_length=True), "data_length"),
    (message("audio-chunk", CHUNK, payload_length=1 << 30), "payload_length"),
    (message("audio-chunk", CHUNK, payload_length="2"), "payload_length"),
    (message("audio-chunk", CHUNK, payload_length=2), "ended inside a message"),
    (message("ping", ["a"]), "not a JSON object"),
    (message("ping", {"text": "\ud800"}), "text of ping"),
    (message("x", data_length=None)[:-9], "not JSON"),
    (b"a" * (1 << 17), "longer than"),
    (b'{"type": "ping", "data": 3}\n', "data is not an object"),
    (message("audio-chunk", {}, b"12"), "rate of audio-chunk"),
    (message("audio-chunk", CHUNK | {"rate": 0}, b"12"), "rate of audio-chunk"),
    (message("audio-chunk", CHUNK | {"rate": 10**30}, b"12"), "rate of audio-chunk"),
    (message("audio-chunk", CHUNK | {"width": 8}, b"12345678"), "width of audio-chunk"),
    (message("audio-chunk", CHUNK | {"channels": 10**6}, b"12"), "channels of audio-chunk"),
    (message("audio-chunk", CHUNK | {"timestamp": "now"}, b"12"), "timestamp of audio-chunk"),
    (message("audio-chunk", CHUNK, b"123"), "ends inside a frame"),
    (message("detect", {"names": "loud"}), "names of detect"),
    (message("detect", {"names": [["loud"]]}), "names of detect"),
    (message("detect", {"names": ["\x1b[31m\nevil\ud800" * 50]}), "no keyword"),
])
def test_malformed_input_ends_its_connection_with_one_line(server, data, reason):
    before = len(server.log)
    talk(server, data)
    assert alive(server)
    (line,) = server.log[before:]
    assert reason in line and line.isprintable() and "internal" not in line and len(line) < 600
    assert re.match(r"wyoming_server: 127\.0\.0\.1:\d+: connection ended: ", line)


def test_later_versions_of_the_protocol_are_passed_over(server):
    before = len(server.log)
    answer = talk(server, message("select-program", {"name": "x"}) + message("brand-new", {"a": 1}, b"123")
                  + message("ping", {"text": "a"}, version="99", other=[1]))
    assert json.loads(answer.split(b"\n", 1)[0])["type"] == "pong" and len(server.log) == before


def test_a_reset_connection(server):
    with socket.create_connection(("127.0.0.1", server.port)) as to:
        to.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        to.sendall(message("audio-chunk", CHUNK, bytes(64_000)) * 5 + b'{"type"')
    assert alive(server)


def test_of_too_many_connections_the_oldest_goes(server):
    before = len(server.log)
    sockets = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(17)]
    try:
        assert sockets[0].recv(1) == b""
        assert server.log[before:] == ["wyoming_server: 127.0.0.1: connection ended: there are too many"]
        for one in sockets[1:]:
            one.sendall(message("ping"))
            assert b"pong" in one.recv(1000)
    finally:
        for one in sockets:
            one.close()


# Fuzzed: messages that are nearly right, and bytes that are not

NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 4, 5, 7999, 8000, 16_000, 44_100, 2**31, 2**64, 1.5, True, None, "2"])
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
                    max_leaves=6)
TYPES = st.sampled_from(["describe", "detect", "audio-start", "audio-chunk", "audio-stop", "ping", "select-program"])
FIELDS = st.fixed_dictionaries({}, optional={
    "rate": st.just(RATE) | NUMBERS, "width": st.just(2) | NUMBERS, "channels": st.just(1) | NUMBERS,
    "timestamp": NUMBERS, "names": st.just(["loud"]) | JSON, "text": JSON, "context": JSON})


def rarely(odd: st.SearchStrategy, usual: st.SearchStrategy) -> st.SearchStrategy:
    return st.integers(0, 9).flatmap(lambda number: odd if number == 9 else usual)


MESSAGES = st.builds(
    message, rarely(JSON, TYPES), rarely(JSON, FIELDS),
    st.binary(max_size=40) | st.sampled_from([bytes(2560), b"\x7f\x80" * 5000]),
) | st.builds(
    lambda kind, data, payload, header: message(kind, data, payload, **header), TYPES, FIELDS, st.binary(max_size=40),
    st.fixed_dictionaries({}, optional={"data_length": NUMBERS, "payload_length": NUMBERS, "data": JSON}),
)


CONVERSATIONS = st.lists(rarely(st.binary(max_size=30), MESSAGES), max_size=5).map(b"".join)


@in_batches
def test_fuzzed_conversations(server, batch, inputs):
    before = len(server.log)
    fuzz(lambda data: talk(server, data), CONVERSATIONS, batch, inputs, damaged=4)
    assert alive(server) and server.process.poll() is None
    lines = server.log[before:]
    assert lines and not [line for line in lines if "internal" in line or not line.startswith("wyoming_server: 127.")]


# The program


def test_it_ends_at_once_and_with_a_line(start, tmp_path):
    server = start("--bundle", write_bundle(tmp_path / "b"))
    with socket.create_connection(("127.0.0.1", server.port)) as to:
        to.sendall(message("audio-chunk", CHUNK, bytes(64_000)))
        time.sleep(0.3)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        assert time.monotonic() - began < 1
        to.settimeout(5)
        assert to.recv(10) == b""
    assert server.log[1:] == ["wyoming_server: ended, 1 connections closed"]


def test_a_bundle_that_is_replaced_meanwhile_is_heard_as_it_was(start, tmp_path):
    server = start("--bundle", write_bundle(tmp_path / "b"))
    (tmp_path / "b" / "model.int8.onnx").write_bytes(b"half")
    assert [event.type for event in once(server, pcm(sound(0.5)))] == ["detection"]


@pytest.mark.parametrize(("rate", "answer"), [("4", "detection"), ("0.2", "not-detected")])
def test_false_accepts_an_hour_choose_the_threshold(start, tmp_path, rate, answer):
    curve = [CURVE[0], CURVE[-1] | {"threshold": 0.999999}]
    server = start("--bundle", write_bundle(tmp_path / "b", operating_points=[curve]), "--false-accepts", rate)
    assert [event.type for event in once(server, pcm(sound(0.5)))] == [answer]


@pytest.mark.parametrize("threshold", ["0.999999", "loud=0.999999"])
def test_a_threshold_of_ones_own(start, tmp_path, threshold):
    server = start("--bundle", write_bundle(tmp_path / "b"), "--threshold", threshold)
    assert [event.type for event in once(server, pcm(sound(0.5)))] == ["not-detected"]


@pytest.mark.parametrize(("arguments", "reason"), [
    (["--bundle", "nowhere"], "manifest.json: cannot be read"),
    ([], "required: --bundle"),
    (["--bundle", "{b}", "{c}"], "loud is in both"),
    (["--bundle", "{b}", "--threshold", "2"], "--threshold must be in 0.001…1"),
    (["--bundle", "{b}", "--threshold", "lod=0.5"], "no keyword lod: choose from loud"),
    (["--bundle", "{b}", "--false-accepts", "1"], "no measured false accepts an hour for 'loud'"),
    (["--bundle", "{b}", "--false-accepts", "1", "--threshold", "0.5"], "exclude each other"),
    (["--bundle", "{b}", "--threshold", "nan"], "must be in 0.001…1"),
    (["--bundle", "{b}", "--uri", "udp://x"], "is not tcp://HOST:PORT"),
    (["--bundle", "{b}", "--uri", "tcp://127.0.0.1"], "is not tcp://HOST:PORT"),
    (["--bundle", "{b}", "--uri", "tcp://127.0.0.1:99999"], "is not tcp://HOST:PORT"),
    (["--bundle", "{b}", "--uri", "tcp://192.0.2.1:10400"], "cannot listen there"),
    (["--bundle", "{b}", "--uri", "tcp://a..b:10400"], "cannot listen there"),
])
def test_mistakes_are_told_in_one_line(start, tmp_path, arguments, reason):
    folders = {name: write_bundle(tmp_path / name) for name in "bc"}
    server = start(*(argument.format(**folders) for argument in arguments), wait=False)
    assert server.process.wait(20) == 2
    (line,) = server.log
    assert line.startswith("wyoming_server: error: ") and reason in line


# Real recordings


def test_real_clips_are_detected_as_by_the_engine_itself(start, shipped, recordings):
    soundfile = pytest.importorskip("soundfile")
    from runtime.bundle.detector import Detector
    from runtime.bundle.engine import Engine

    engine = Engine(shipped)
    word = engine.keywords[0]
    listed = (recordings / "speech_commands" / "testing_list.txt").read_text().split()
    others = [name for name in listed if not name.startswith(f"{word}/")]
    names = [name for name in listed if name.startswith(f"{word}/")][:30] + others[:: len(others) // 30]
    clips = []
    for name in names:
        path = (recordings / "speech_commands" / name).with_suffix(".flac")
        clip = soundfile.read(path if path.exists() else path.with_suffix(".wav"), dtype="int16")[0]
        clips.append(np.concatenate((clip, np.zeros(-len(clip) % 1280 + 8 * 1280, np.int16))))

    def directly(clip: np.ndarray) -> list[int]:
        engine.reset()
        detector = Detector(engine.thresholds, engine.refractory_hops)
        scores = (engine.step(hop) for hop in (clip / np.float32(32768)).reshape(-1, 1280).astype(np.float32))
        return [80 * (hop + 1) for hop, score in enumerate(scores) if 0 in detector.step(score)]

    async def served(ask: Callable[[], AsyncClient]) -> list[list[int]]:
        async with ask() as to:
            return [[e.data["timestamp"] for e in await send(to, clip.tobytes(), names=[word], times=False)
                     if Detection.is_type(e.type)] for clip in clips]

    server = start("--bundle", shipped)
    found = asyncio.run(served(lambda: client(server)))
    expected = [directly(clip) for clip in clips]
    assert [len(times) for times in found] == [len(times) for times in expected]
    hits = sum(map(bool, found[:30]))
    assert hits >= 20, f"{hits} of 30"
    for one, other in zip(found, expected, strict=True):  # of the chunk of 64 ms in which the hop of 80 ms is complete
        assert all(0 <= a - b <= 64 for a, b in zip(one, other, strict=True))
