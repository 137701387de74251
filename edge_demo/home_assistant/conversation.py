"""The protocol on one connection: audio and requests in, detections and answers out."""

import asyncio
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, async_write_event
from wyoming.info import Attribution, Describe, Info, WakeModel, WakeProgram
from wyoming.ping import Ping, Pong
from wyoming.wake import Detect, Detection, NotDetected

from edge_demo.home_assistant.messages import IDLE_SECONDS, MESSAGE_SECONDS, PIECE, Malformed, Message, Reader
from runtime.audio.hops import Format, Rechunker, Samples, decode, mix, resampler
from runtime.bundle.detector import Detector
from runtime.bundle.engine import Engine
from runtime.sample_rate import SAMPLE_RATE

MOST_CHANNELS = 32
STREAM_SECONDS = 10.0  # after the last audio
PIECES = 12  # of a second of audio, at least


class Refused(Exception):
    """A request that cannot be served. The message is one line, and is sent to the client."""


class Converter:
    """PCM of one format → float32 at 16 kHz, one channel, -1…1, without seams between the chunks.

    Raises AudioError without soxr.
    """

    def __init__(self, form: Format) -> None:
        self.format = form
        self._stream = None if form.rate == SAMPLE_RATE else resampler(form.rate, "audio-chunk")

    def piece(self) -> int:
        """Bytes of whole frames, few enough that other connections do not wait long."""
        frame = self.format.sample_bytes * self.format.channels
        return min(self.format.rate // PIECES, PIECE // frame) * frame

    def convert(self, data: bytes) -> Samples:
        """Whole frames → samples."""
        samples = mix(decode(data, self.format))
        return self._stream.resample_chunk(samples) if self._stream else samples

    def rest(self) -> Samples:
        """The samples that the resampler still holds at the end of the audio."""
        nothing = np.zeros(0, np.float32)
        return self._stream.resample_chunk(nothing, last=True) if self._stream else nothing


class Listening:
    """One bundle on the audio of one connection. thresholds: one for each of its keywords."""

    def __init__(self, engine: Engine, thresholds: list[float]) -> None:
        self._engine = engine
        self.keywords = engine.keywords
        self._detector = Detector(thresholds, engine.refractory_hops)
        self._chunks = Rechunker(engine.hop_samples)
        self.start_over()

    def start_over(self) -> None:
        self._engine.reset()
        self._detector.reset()
        self._chunks.restart()

    def detect(self, samples: Samples, last: bool = False) -> Iterator[str]:
        """Samples at 16 kHz, any number → the keywords detected in them. last: pad the last hop with zeros."""
        hops = self._chunks.push(samples)
        for hop in chain(hops, self._chunks.end()) if last else hops:
            scores = self._engine.step(hop)
            yield from (self._engine.keywords[index] for index in self._detector.step(scores))


@dataclass(frozen=True)
class Bundles:
    """Shared by all connections: engines and thresholds by their bundles' folders."""

    engines: dict[str, Engine]
    thresholds: dict[str, list[float]]

    def listenings(self) -> list[Listening]:
        """For one connection: it shares the models, and has its own states."""
        return [Listening(engine.stream(), self.thresholds[folder]) for folder, engine in self.engines.items()]

    def keywords(self) -> list[str]:
        return [keyword for engine in self.engines.values() for keyword in engine.keywords]

    def info(self) -> Info:
        models = [
            WakeModel(name=keyword, phrase=keyword, description=keyword.replace("_", " "), installed=True, languages=[],
                      version=None, attribution=Attribution(name=os.path.basename(os.path.abspath(folder)), url=""))
            for folder, engine in self.engines.items() for keyword in engine.keywords
        ]
        program = WakeProgram(name="earshot", description="Streaming keyword spotting for small computers", version="1",
                              attribution=Attribution(name="Earshot", url=""), installed=True, models=models)
        return Info(wake=[program])


class Conversation:
    """One connection, from its first message to its end. client: its address."""

    def __init__(self, bundles: Bundles, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
                 client: str) -> None:
        self.client = client
        self._opened = time.monotonic()
        self._last_audio = -math.inf  # when it came
        self._bundles = bundles
        self._reader = Reader(reader)
        self._writer = writer
        self._names: set[str] | None = None  # of the chosen keywords; None: all
        self._listenings: list[Listening] = []
        self._converter: Converter | None = None
        self._samples = 0  # at 16 kHz, since the audio started
        self._detected = False

    def worth(self) -> tuple[bool, float]:
        """Order in which connections are kept: those that send audio before others, then the newest."""
        return time.monotonic() - self._last_audio < STREAM_SECONDS, self._opened

    async def run(self) -> None:
        """Raises Malformed, Refused, AudioError, and OSError when the client does not read the answers."""
        patience = MESSAGE_SECONDS
        while (message := await self._reader.message(patience)) is not None:
            patience = IDLE_SECONDS
            await asyncio.sleep(0)  # let other connections run, even if this one never pauses
            if Describe.is_type(message.kind):
                await self._send(self._bundles.info().event())
            elif Detect.is_type(message.kind):
                self._choose(message)
            elif AudioStart.is_type(message.kind):
                self._start()
            elif AudioChunk.is_type(message.kind):
                await self._chunk(message)
            elif AudioStop.is_type(message.kind):
                await self._stop()
            elif Ping.is_type(message.kind):
                await self._pong(message)
            # Other messages are of later versions of the protocol, and are to be ignored.

    async def refuse(self, reason: str) -> None:
        await self._send(Error(text=reason).event())

    async def _send(self, event: Event) -> None:
        async with asyncio.timeout(MESSAGE_SECONDS):
            await async_write_event(event, self._writer)

    async def _pong(self, message: Message) -> None:
        text = message.data.get("text")
        if text is not None and not (isinstance(text, str) and text.isprintable()):
            raise Malformed("text of ping is not a line of text")
        await self._send(Pong(text=text).event())

    def _choose(self, message: Message) -> None:
        names = message.data.get("names")
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise Malformed("names of detect is not a list of names")
        known = {plain(keyword): keyword for keyword in self._bundles.keywords()}
        for name in names or []:
            if plain(name) not in known:
                raise Refused(f"no keyword {json.dumps(name)[:80]}: choose from {', '.join(known.values())}")
        self._names = {known[plain(name)] for name in names} if names else None
        self._start()

    def _start(self) -> None:
        self._converter = None
        self._samples = 0
        self._detected = False
        for listening in self._listenings:
            listening.start_over()

    async def _chunk(self, message: Message) -> None:
        form = Format(rate=message.integer("rate", 8000, 192_000), sample_bytes=message.integer("width", 1, 4),
                      channels=message.integer("channels", 1, MOST_CHANNELS), is_float=False)
        timestamp = message.data.get("timestamp")
        if timestamp is not None:
            timestamp = message.integer("timestamp", -(2**63), 2**63 - 1)
        frame = form.sample_bytes * form.channels
        if message.size % frame:
            raise Malformed(f"a chunk of {message.size} bytes ends inside a frame of {frame}")
        if self._converter is None or self._converter.format != form:
            if self._converter is not None:
                await self._detect(self._converter.rest(), timestamp)
            self._converter = Converter(form)
        while piece := await self._reader.audio(self._converter.piece()):
            await self._detect(self._converter.convert(piece), timestamp)

    async def _stop(self) -> None:
        if self._converter is not None:
            await self._detect(self._converter.rest(), None, last=True)
        if not self._detected:
            await self._send(NotDetected().event())
        self._start()

    async def _detect(self, samples: Samples, timestamp: int | None, last: bool = False) -> None:
        """timestamp: of the chunk; without one, a detection has the milliseconds since the audio started."""
        self._last_audio = time.monotonic()
        self._samples += len(samples)
        self._listenings = self._listenings or self._bundles.listenings()
        for listening in self._listenings:
            if self._names is not None and self._names.isdisjoint(listening.keywords):
                continue
            for keyword in listening.detect(samples, last):
                if self._names is None or keyword in self._names:
                    self._detected = True
                    when = self._samples * 1000 // SAMPLE_RATE if timestamp is None else timestamp
                    await self._send(Detection(name=keyword, timestamp=when).event())
        await asyncio.sleep(0)  # let other connections run: audio may arrive faster than real time


def plain(name: str) -> str:
    """Names as wyoming-openwakeword compares them."""
    return name.lower().replace("_", " ").strip()
