"""A Wyoming wake-word server: Home Assistant and its satellites send audio, this answers when a keyword was said.

    python edge_demo/wyoming_server.py --bundle dist/happy-ensemble                                 # this machine only
    python edge_demo/wyoming_server.py --bundle dist/happy-ensemble --uri tcp://0.0.0.0:10400       # the whole network

Then in Home Assistant: Settings, Devices & services, Add integration, Wyoming Protocol, host and port; and choose the
keyword in the voice assistant's settings. The protocol knows no password: open it to a network you trust, no further.

A conversation is `describe` → `info`, and `detect` (names of keywords, none means all), `audio-start`, `audio-chunk`…,
`audio-stop` → `detection` for every event, or one `not-detected` when the audio stopped without any. Several audios may
follow each other, each starts from silence. Needs `pip install wyoming`, and soxr where audio is not at 16 kHz.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

import numpy as np

try:
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.error import Error
    from wyoming.event import Event, async_write_event
    from wyoming.info import Attribution, Describe, Info, WakeModel, WakeProgram
    from wyoming.ping import Ping, Pong
    from wyoming.wake import Detect, Detection, NotDetected
except ModuleNotFoundError:
    print("wyoming_server: error: the package wyoming is not installed: pip install wyoming", file=sys.stderr)
    sys.exit(2)

if not __package__:  # run as a script: find this folder as the package it is
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from runtime.audio import SAMPLE_RATE, AudioError, Format, Samples, decode, mix, resampler
from runtime.detector import Detector
from runtime.engine import BundleError, Engine
from runtime.options import read_thresholds

MOST_CONNECTIONS = 32  # each holds a model per bundle
LONGEST_LINE = 64 << 10  # bytes of a message's JSON, in its line or behind it
LARGEST_PAYLOAD = 1 << 20  # bytes of a message's audio; half a minute at 16 kHz and 16 bits
MESSAGE_SECONDS = 30.0  # for a message to arrive once it has begun, or to be taken by the other side
MOST_CHANNELS = 32


class Malformed(Exception):
    """The other side does not speak the protocol. The message is one line."""


class Refused(Exception):
    """What the other side asks for cannot be had. The message is one line, and is sent to it."""


# Messages


async def read_event(reader: asyncio.StreamReader) -> Event | None:
    """The next message, or None at the end. Raises Malformed.

    The package's own reader takes lengths of any size and waits for them for ever.
    """
    first = await reader.read(1)
    if not first:
        return None
    try:
        async with asyncio.timeout(MESSAGE_SECONDS):
            return await _read_rest(first, reader)
    except TimeoutError:
        raise Malformed(f"a message did not arrive within {MESSAGE_SECONDS:.0f} s") from None
    except asyncio.IncompleteReadError:
        raise Malformed("the connection ended inside a message") from None


async def _read_rest(first: bytes, reader: asyncio.StreamReader) -> Event:
    try:
        line = first if first == b"\n" else first + await reader.readline()
    except ValueError:
        raise Malformed(f"a line is longer than {LONGEST_LINE} bytes") from None
    header = _object(line)
    if not isinstance(header.get("type"), str):
        raise Malformed("a message has no type")
    data = header.get("data") or {}
    if not isinstance(data, dict):
        raise Malformed("data is not an object")
    if size := _length(header, "data_length", LONGEST_LINE):
        data.update(_object(await reader.readexactly(size)))
    payload = None
    if size := _length(header, "payload_length", LARGEST_PAYLOAD):
        payload = await reader.readexactly(size)
    return Event(header["type"], data, payload)


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text.decode())
    except (ValueError, RecursionError):
        raise Malformed("a message is not JSON") from None
    if not isinstance(value, dict):
        raise Malformed("a message is not a JSON object")
    return value


def _length(header: dict[str, Any], key: str, most: int) -> int:
    value = header.get(key)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= most:
        raise Malformed(f"{key} is not a whole number in 0…{most}")
    return value


def _integer(event: Event, key: str, least: int, most: int) -> int:
    value = event.data.get(key)
    if type(value) is not int or not least <= value <= most:
        raise Malformed(f"{key} of {event.type} is not a whole number in {least}…{most}")
    return value


# Audio


class Converter:
    """PCM of one format → float32 at 16 kHz, one channel, -1…1, without seams between the chunks.

    Raises AudioError without soxr.
    """

    def __init__(self, form: Format) -> None:
        self.format = form
        self._stream = None if form.rate == SAMPLE_RATE else resampler(form.rate, "audio-chunk")

    def convert(self, data: bytes) -> Iterator[Samples]:
        """A chunk → its samples, at most about a second at a time. Raises Malformed."""
        frame = self.format.sample_bytes * self.format.channels
        if len(data) % frame:
            raise Malformed(f"a chunk of {len(data)} bytes ends inside a frame of {frame}")
        second = self.format.rate * frame
        for start in range(0, len(data), second):
            samples = mix(decode(data[start : start + second], self.format))
            yield self._stream.resample_chunk(samples) if self._stream else samples

    def rest(self) -> Samples:
        """What the resampler still holds; the audio has ended."""
        nothing = np.zeros(0, np.float32)
        return self._stream.resample_chunk(nothing, last=True) if self._stream else nothing


class Ear:
    """One bundle listening to the audio of one connection. thresholds: replace the bundle's, by keyword; "" all."""

    def __init__(self, engine: Engine, thresholds: dict[str, float]) -> None:
        self._engine = engine
        own = zip(engine.keywords, engine.thresholds, strict=True)
        used = [thresholds.get(name, thresholds.get("", value)) for name, value in own]
        self._detector = Detector(used, engine.refractory_hops)
        self.start_over()

    def start_over(self) -> None:
        self._engine.reset()
        self._detector.reset()
        self._rest = np.zeros(0, np.float32)

    def hear(self, samples: Samples, last: bool = False) -> Iterator[str]:
        """Samples at 16 kHz, any number → the keywords detected in them. last: fill the last hop up with zeros."""
        hop = self._engine.hop_samples
        heard = np.concatenate((self._rest, samples))
        if last:
            heard = np.concatenate((heard, np.zeros(-len(heard) % hop, np.float32)))
        whole = len(heard) - len(heard) % hop
        self._rest = heard[whole:]
        for start in range(0, whole, hop):
            scores = self._engine.step(heard[start : start + hop])
            yield from (self._engine.keywords[index] for index in self._detector.step(scores))


# Conversations


@dataclass(frozen=True)
class Bundles:
    """What all connections share: bundles, and thresholds that replace theirs. keywords: of each bundle's folder."""

    keywords: dict[str, tuple[str, ...]]
    model: str | None
    thresholds: dict[str, float]

    def load(self, folder: str) -> Ear:
        """A fresh ear: state belongs to a stream. Takes some 50 ms. Raises BundleError."""
        return Ear(Engine(folder, self.model), self.thresholds)

    def info(self) -> Info:
        models = [
            WakeModel(name=keyword, phrase=keyword, description=keyword.replace("_", " "), installed=True, languages=[],
                      version=None, attribution=Attribution(name=os.path.basename(os.path.abspath(folder)), url=""))
            for folder, keywords in self.keywords.items() for keyword in keywords
        ]
        program = WakeProgram(name="earshot", description="Streaming keyword spotting for small computers", version="1",
                              attribution=Attribution(name="Earshot", url=""), installed=True, models=models)
        return Info(wake=[program])


class Conversation:
    """One connection, from its first message to its end."""

    def __init__(self, bundles: Bundles, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._bundles = bundles
        self._reader = reader
        self._writer = writer
        self._names: set[str] | None = None  # wanted keywords; None: all
        self._ears: dict[str, Ear] = {}
        self._converter: Converter | None = None
        self._samples = 0  # at 16 kHz, since the audio started
        self._detected = False

    async def run(self) -> None:
        """Raises Malformed, Refused, AudioError, BundleError, and OSError when nobody takes the answers."""
        while (event := await read_event(self._reader)) is not None:
            if Describe.is_type(event.type):
                await self._say(self._bundles.info().event())
            elif Detect.is_type(event.type):
                self._choose(event)
            elif AudioStart.is_type(event.type):
                self._start()
            elif AudioChunk.is_type(event.type):
                await self._chunk(event)
            elif AudioStop.is_type(event.type):
                await self._stop()
            elif Ping.is_type(event.type):
                await self._pong(event)
            # Others are of later versions of the protocol, which asks to pass over them.

    async def refuse(self, reason: str) -> None:
        await self._say(Error(text=reason).event())

    async def _say(self, event: Event) -> None:
        async with asyncio.timeout(MESSAGE_SECONDS):
            await async_write_event(event, self._writer)

    async def _pong(self, event: Event) -> None:
        text = event.data.get("text")
        if text is not None and not (isinstance(text, str) and text.isprintable()):
            raise Malformed("text of ping is not a line of text")
        await self._say(Pong(text=text).event())

    def _choose(self, event: Event) -> None:
        wanted = event.data.get("names")
        if wanted is not None and not (isinstance(wanted, list) and all(isinstance(name, str) for name in wanted)):
            raise Malformed("names of detect is not a list of names")
        known = {_plain(keyword): keyword for keywords in self._bundles.keywords.values() for keyword in keywords}
        for name in wanted or []:
            if _plain(name) not in known:
                raise Refused(f"no keyword {json.dumps(name)[:80]}: choose from {', '.join(known.values())}")
        self._names = {known[_plain(name)] for name in wanted} if wanted else None
        self._start()

    def _start(self) -> None:
        self._converter = None
        self._samples = 0
        self._detected = False
        for ear in self._ears.values():
            ear.start_over()

    async def _chunk(self, event: Event) -> None:
        form = Format(rate=_integer(event, "rate", 8000, 192_000), sample_bytes=_integer(event, "width", 1, 4),
                      channels=_integer(event, "channels", 1, MOST_CHANNELS), is_float=False)
        timestamp = event.data.get("timestamp")
        if timestamp is not None:
            timestamp = _integer(event, "timestamp", -(2**63), 2**63 - 1)
        if self._converter is None or self._converter.format != form:
            if self._converter is not None:
                await self._hear(self._converter.rest(), timestamp)
            self._converter = Converter(form)
        for samples in self._converter.convert(event.payload or b""):
            await self._hear(samples, timestamp)

    async def _stop(self) -> None:
        if self._converter is not None:
            await self._hear(self._converter.rest(), None, last=True)
        if not self._detected:
            await self._say(NotDetected().event())
        self._start()

    async def _hear(self, samples: Samples, timestamp: int | None, last: bool = False) -> None:
        """timestamp: of the chunk; where it has none, a detection tells the milliseconds since the audio started."""
        self._samples += len(samples)
        for folder, keywords in self._bundles.keywords.items():
            if self._names is not None and self._names.isdisjoint(keywords):
                continue
            if folder not in self._ears:
                self._ears[folder] = await asyncio.to_thread(self._bundles.load, folder)
            for keyword in self._ears[folder].hear(samples, last):
                if self._names is None or keyword in self._names:
                    self._detected = True
                    when = self._samples * 1000 // SAMPLE_RATE if timestamp is None else timestamp
                    await self._say(Detection(name=keyword, timestamp=when).event())
        await asyncio.sleep(0)  # the other connections' turn: one may send faster than it speaks


def _plain(name: str) -> str:
    """Names as wyoming-openwakeword compares them."""
    return name.lower().replace("_", " ").strip()


class Server:
    """Accepts connections until told to end; what happens to one never touches another."""

    def __init__(self, bundles: Bundles) -> None:
        self._bundles = bundles
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, host: str, port: int) -> None:
        """Until SIGTERM or SIGINT. Raises OSError when the address cannot be had."""
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        server = await asyncio.start_server(self._accept, host, port, limit=LONGEST_LINE)
        for listening in server.sockets:
            address = listening.getsockname()
            log(f"listening on tcp://{_address(address)} for {', '.join(sum(self._bundles.keywords.values(), ()))}")
        await ended.wait()
        server.close()
        open_now = list(self._tasks)
        for task in open_now:
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
        log(f"ended, {len(open_now)} connections closed")

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _address(writer.get_extra_info("peername") or ("?", 0))
        if len(self._tasks) >= MOST_CONNECTIONS:
            log(f"{peer}: refused, there are {MOST_CONNECTIONS} connections already")
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # A satellite whose power was cut never says goodbye; the kernel asks for it after a minute.
            own: socket.socket = writer.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, option):
                    own.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
            await self._converse(peer, Conversation(self._bundles, reader, writer))
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, peer: str, conversation: Conversation) -> None:
        try:
            await conversation.run()
        except Malformed as error:
            log(f"{peer}: connection ended: {error}")
        except (Refused, AudioError, BundleError) as error:
            log(f"{peer}: connection ended: {error}")
            with contextlib.suppress(OSError):
                await conversation.refuse(str(error))
        except OSError as error:  # ConnectionError and TimeoutError too
            log(f"{peer}: connection lost: {error.strerror or type(error).__name__}")
        except Exception as error:
            log(f"{peer}: connection ended: internal error: {type(error).__name__}: {error}")


def _address(name: Any) -> str:
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# Command line


def log(message: str) -> None:
    """One line on stderr, whatever is in the message."""
    line = " ".join(message.split())[:500]
    print(f"wyoming_server: {''.join(c if c.isprintable() else '?' for c in line)}", file=sys.stderr, flush=True)


def fail(message: str) -> NoReturn:
    log(f"error: {message}")
    raise SystemExit(2)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(f"{message}: see --help")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="wyoming_server.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", metavar="DIR", nargs="+", required=True, help="folders that an export made")
    parser.add_argument("--uri", default="tcp://127.0.0.1:10400", help="address to listen on (default: %(default)s); "
                        "port 0 takes a free one")
    parser.add_argument("--model", metavar="FILE", help="model of the bundles (default: the manifest's)")
    parser.add_argument("--threshold", metavar="[KEYWORD=]T", action="append", default=[],
                        help="replaces the manifest's threshold, 0…1, of one keyword or of all; may be given again")
    return parser.parse_args(arguments)


def open_bundles(options: argparse.Namespace) -> Bundles:
    """Load every bundle once, to know its keywords and that it is good. Raises BundleError, exits on mistakes."""
    keywords: dict[str, tuple[str, ...]] = {}
    owners: dict[str, str] = {}
    for folder in options.bundle:
        keywords[folder] = Engine(folder, options.model).keywords
        for keyword in keywords[folder]:
            if owners.setdefault(_plain(keyword), folder) != folder:
                fail(f"{keyword} is in both {owners[_plain(keyword)]} and {folder}: leave one of them out")
    every = [keyword for group in keywords.values() for keyword in group]
    try:
        given = read_thresholds(options.threshold)
    except ValueError as error:
        fail(f"--threshold must be {error}")
    for name in given:
        if name and name not in every:
            fail(f"--threshold: no keyword {name}: choose from {', '.join(every)}")
    return Bundles(keywords, options.model, given)


def address(uri: str) -> tuple[str, int]:
    """tcp://HOST:PORT → host and port. Exits on anything else."""
    try:
        parts = urlsplit(uri)
        if parts.scheme == "tcp" and parts.hostname and parts.port is not None and not parts.path.strip("/"):
            return parts.hostname, parts.port
    except ValueError:
        pass
    fail(f"--uri {uri}: is not tcp://HOST:PORT, for example tcp://127.0.0.1:10400")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    host, port = address(options.uri)
    try:
        asyncio.run(Server(open_bundles(options)).serve(host, port))
    except BundleError as error:
        fail(str(error))
    except (OSError, UnicodeError) as error:  # the latter of a host that is no name
        reason = getattr(error, "strerror", None) or error
        fail(f"--uri {options.uri}: cannot listen there ({reason}): choose another, or end what does")
    return 0


if __name__ == "__main__":
    sys.exit(main())
