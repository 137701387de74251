"""The listener: one stream of audio, several bundles, and whoever wants to know what they detect.

Runs in the main thread, hop by hop. Whatever may take long (commands, disks, brokers, browsers) has a thread of its own
and a bounded queue before it, so that nothing holds up the audio.
"""

import argparse
import signal
import sys
import threading
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any

from runtime.audio.hops import Samples, pcm_hops, quiet_room, wav_hops
from runtime.bundle.peaks import Event
from runtime.ear import Ear, EarError, load
from runtime.errors import AudioError, BundleError, OptionsError
from runtime.journal import Journal, as_json, choose_form, remark, write
from runtime.options import parse
from runtime.sample_rate import SAMPLE_RATE
from runtime.secret import read_secrets
from runtime.service import Systemd, Terminated, on_sigterm
from runtime.sinks.opened import Sinks
from runtime.status import Status

if TYPE_CHECKING:
    from runtime.audio.microphone import Gap, Microphone

FULL_SCALE = 32767 / 32768
ROOM_SECONDS = 1.0  # before a file: see `quiet_room`


class Listener:
    """All that one run of listen.py holds. Raises OptionsError and BundleError."""

    def __init__(self, arguments: list[str] | None, options: argparse.Namespace) -> None:
        self._arguments = arguments
        self.options = options
        self.journal = Journal()
        self.systemd = Systemd()
        self._read_secrets(options)
        self.status = Status(self.journal, self._load(options), options.config)
        self.hop_samples = self.status.hop_samples
        self.nan_resets = 0
        self._reload_wanted = self._is_summed_up = False
        self._reader: threading.Thread | None = None
        self._read: tuple[argparse.Namespace, list[Ear]] | Exception
        self._samples = 0
        self._sinks = Sinks(self.status)
        self._microphone: Microphone | None = None

    def _load(self, options: argparse.Namespace) -> list[Ear]:
        """Raises OptionsError and BundleError."""
        ears = load(options)
        for ear in ears:
            if not ear.tried:
                self.journal.post("untried", bundle=ear.name, reason="no second Python could be started")
        return ears

    def _read_secrets(self, options: argparse.Namespace) -> None:
        for path in read_secrets(options):
            self.journal.post("token_made", file=path)

    # Running

    def run(self) -> int:
        """Until the audio ends, or a signal comes → the exit code. Raises AudioError, and OSError when stdout cannot be
        written."""
        options = self.options
        failed = 0
        choose_form(options.json)
        try:
            if not options.wav:  # before anybody can know that we are there, and end us
                on_sigterm(self._last_words)
            signal.signal(signal.SIGHUP, self._on_sighup)
            self._sinks.open(options)
            self.journal.flush()
            if options.wav:
                self.systemd.say("READY=1")
                for path in options.wav:
                    failed += not self._hear_file(path)
            else:
                self._hear(self._live())
            self._finish()
        except Terminated:
            self.systemd.say("STOPPING=1")
            self.journal.flush()
            write(self.status.summary())
            self._is_summed_up = True
        finally:
            self.close()
        return 0 if not failed else 2 if failed == len(options.wav) else 1

    def _hear_file(self, path: str) -> bool:
        """Whether it could be read. A clip of a word counts as in a stream: a quiet room is heard before and after."""
        hops = chain(wav_hops(path, self.hop_samples, warn), quiet_room(self.hop_samples))
        try:
            self._hear(hops, path if len(self.options.wav) > 1 else None, quiet_room(self.hop_samples, ROOM_SECONDS))
        except AudioError as error:
            self.journal.flush()
            remark(f"listen: error: {error}")
            return False
        return True

    def _live(self) -> Iterable["Samples | Gap | None"]:
        """Standard input or the microphone."""
        options = self.options
        if options.stdin:
            if sys.stdin is None or sys.stdin.isatty():
                raise OptionsError("standard input is a terminal: pipe raw PCM into it, see --help")
            self.systemd.say("READY=1")
            self._greet("standard input")
            return pcm_hops(sys.stdin.buffer, self.hop_samples, warn)
        from runtime.audio.microphone import Microphone

        self._microphone = Microphone(options.device, self.hop_samples, self.journal.post, options.silence,
                                      options.wait)
        self.systemd.say("READY=1")
        self._greet(f"microphone {self._microphone.name!r}")
        return self._microphone.stream()

    def _greet(self, source: str) -> None:
        """Tell a person at a terminal what goes on, and what to do."""
        if sys.stderr.isatty():
            words = " or ".join(f"\"{keyword.replace('_', ' ')}\"" for keyword in self.status.keywords)
            bundles = ", ".join(ear.name for ear in self.status.ears)
            remark(f"listen: {source}, with {bundles}: say {words}; Ctrl-C ends")

    def _hear(self, stream: Iterable["Samples | Gap | None"], file: str | None = None,
              room: Iterable[Samples] = ()) -> None:
        """One stream, from zero state and the noise of a room."""
        self._samples = 0
        room = list(room)
        for ear in self.status.ears:
            ear.reset(room)
        for sink in self._sinks:
            sink.gap()
        for item in stream:
            self._see_to_reload()
            if item is None:
                pass
            elif isinstance(item, tuple):
                self._skip(item)
            else:
                self._step(item, file)
            self.journal.flush()
        for ear in self.status.ears:
            ear.over = ear.peaks.end()
            self._tell_over(ear, file)

    def _finish(self) -> None:
        """The audio has ended, and nobody is in a hurry: commands and clips of the last detections get their time."""
        for sink in self._sinks:
            sink.finish()
        self.journal.flush()

    def _step(self, hop: Samples, file: str | None) -> None:
        self._samples += len(hop)
        self.status.hops += 1
        self.journal.time_s = self._samples / SAMPLE_RATE
        if hop.max() >= FULL_SCALE or hop.min() <= -1:
            self.status.clipped_hops += 1
        detected: list[tuple[Ear, Event]] = []
        for ear in self.status.ears:
            try:
                detected += [(ear, event) for event in ear.step(hop, self.journal.time_s)]
            except EarError as error:
                self._disable(ear, str(error))
                continue
            if ear.engine.nan_resets != ear.nan_resets:
                ear.nan_resets = ear.engine.nan_resets
                self.nan_resets += 1
                self.journal.post("not_a_number")
        for sink in self._sinks:
            sink.hop(hop)
        for ear in self.status.ears:
            self._tell_over(ear, file)
        for ear, event in detected:
            self._tell(ear, event, file)
        self.systemd.processed()

    def _disable(self, ear: Ear, reason: str) -> None:
        """Go on without that bundle, until it is read again. Raises BundleError when it was the last."""
        self.journal.post("bundle_disabled", bundle=ear.name, reason=reason)
        self.status.ears = [other for other in self.status.ears if other is not ear]
        if not self.status.ears:
            self.journal.flush()
            raise BundleError(f"{ear.name}: {reason}, and no other bundle is left: export it again")

    def _line(self, ear: Ear, event: Event, file: str | None) -> dict[str, Any]:
        line: dict[str, Any] = {} if file is None else {"file": file}
        line |= {"time_s": round(event.time, 3), "keyword": event.keyword, "score": round(event.score, 4)}
        if len(self.options.bundle) > 1:
            line["bundle"] = ear.name
        return line

    def _tell_over(self, ear: Ear, file: str | None) -> None:
        """How high their scores came; not before they are over, and nobody has to wait for it."""
        for event in ear.over:
            detection = {**self._line(ear, event, file), "peak": round(event.peak, 4)}
            write({"event": "over", "time_s": round(self.journal.time_s, 3), "detection": detection})
        ear.over = []

    def _tell(self, ear: Ear, event: Event, file: str | None) -> None:
        detection = self._line(ear, event, file)
        self.status.detections += 1
        for sink in self._sinks:
            sink.publish(detection | {"bundle": ear.name})
        write(detection)

    def _skip(self, gap: "Gap") -> None:
        """Audio is missing, more than a hop: time goes on, and what the models remember is of before."""
        self.journal.post("gap", lost_s=round(gap.samples / SAMPLE_RATE, 3), reason=gap.reason)
        self._samples += gap.samples
        self.journal.time_s = self._samples / SAMPLE_RATE
        for ear in self.status.ears:
            ear.skip(gap.samples // self.hop_samples)
            self._tell_over(ear, None)
        for sink in self._sinks:
            sink.gap()

    def _last_words(self) -> bytes:
        return b"" if self._is_summed_up else (as_json(self.status.summary()) + "\n").encode()

    # Reloading

    def _on_sighup(self, *_: object) -> None:
        self._reload_wanted = True

    def _see_to_reload(self) -> None:
        """Configuration and bundles are read in a thread, as trying a bundle takes a second on a small device."""
        if self._reader is None and self._reload_wanted:
            self._reload_wanted = False
            self.systemd.reloading()
            self._reader = threading.Thread(target=self._read_again, daemon=True)
            self._reader.start()
        elif self._reader is not None and not self._reader.is_alive():
            self._reader = None
            self._take_over()

    def _read_again(self) -> None:
        """Leaves in `_read` what was read, or what is wrong with it."""
        try:
            options = parse(self._arguments)
            self._read_secrets(options)
            if (options.wav, options.stdin) != (self.options.wav, self.options.stdin):
                raise OptionsError("another kind of source needs a restart")
            ears = self._load(options)
            if ears[0].engine.hop_samples != self.hop_samples:
                raise OptionsError("a bundle with another hop_samples needs a restart")
            self._read = options, ears
        except Exception as error:  # of any kind, to be raised where it is seen
            self._read = error

    def _take_over(self) -> None:
        """What was read, or nothing of it: a mistake in it is told, and everything stays as it was."""
        try:
            if isinstance(self._read, Exception):
                raise self._read
            self._use(*self._read)
        except (OptionsError, BundleError) as error:
            self.journal.post("reload_failed", reason=str(error))
        else:
            self.journal.post("reloaded")
        self.systemd.say("READY=1")

    def _use(self, options: argparse.Namespace, ears: list[Ear]) -> None:
        old, before, self.status.ears = self.options, self.status.ears, ears
        try:
            self._sinks.open(options)
        except OptionsError:
            self.status.ears = before
            self._sinks.open(old)
            raise
        for ear in ears:
            for earlier in before:
                if ear.keywords == earlier.keywords:
                    ear.detector.follow(earlier.detector)
        self.options, self.status.config = options, options.config
        if self._microphone and (options.device, options.silence) != (old.device, old.silence):
            self._microphone.use(options.device, options.silence)

    def close(self) -> None:
        """Let go of everything, in less than a second."""
        if self._reader:
            self._reader.join(0.2)  # what it loads in onnxruntime must not be there when the process ends
        for sink in self._sinks:
            sink.close()
        if self._microphone:
            self._microphone.close()
        if self.nan_resets:
            warn(f"{self.nan_resets} hops were no numbers: the model started over after each")


def warn(message: str) -> None:
    remark(f"listen: warning: {message}")
