"""Listen for a bundle's keywords and print one JSON line per detection.

python runtime/listen.py dist/happy-base                    # the microphone
python runtime/listen.py dist/happy-base --wav a.wav b.wav
arecord -q -r 16000 -f S16_LE -c 1 -t raw | python runtime/listen.py dist/happy-base --stdin

Runs from any folder, as a script or as `python -m runtime.listen`. Needs numpy and onnxruntime; PyAudio for the
microphone and soxr for other rates than 16 kHz.
"""

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

if not __package__:  # run as a script: find this folder as the package it is
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

if TYPE_CHECKING:
    from runtime.audio import Samples
    from runtime.detector import Detector
    from runtime.engine import Engine

SAMPLE_RATE = 16_000
MODELS = {"float": "model.onnx", "int8": "model.int8.onnx"}
LEVEL_FLOOR = -60.0  # dB of full scale at the left end of the meter
METER_WIDTH = 30

EXAMPLES = """examples:
  %(prog)s dist/happy-base                          listen to the default microphone
  %(prog)s dist/happy-base --device USB --meter     to the one with USB in its name, with a level and score meter
  %(prog)s --list-devices                           show the microphones
  %(prog)s dist/happy-base --wav a.wav b.wav        search recordings, each from a fresh start
  arecord -q -r 16000 -f S16_LE -c 1 -t raw | %(prog)s dist/happy-base --stdin

output, one line per detection, at once:
  {"time_s": 12.48, "keyword": "happy", "score": 0.973}
  time_s counts seconds of audio from the start to the end of the hop that detected it.

exit codes: 0 done or stopped by Ctrl-C, SIGTERM or a closed pipe; 1 output cannot be written; 2 a mistake to be fixed
"""


class Parser(argparse.ArgumentParser):
    """Tells mistakes in one line, like every other mistake."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message}: see --help")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="listen.py", description="Listen for a bundle's keywords.", epilog=EXAMPLES,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", help="folder with manifest.json and the models")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--wav", metavar="FILE", nargs="+", help="read WAV files, any rate and channel count")
    source.add_argument("--stdin", action="store_true", help="read raw PCM: 16 kHz, one channel, 16-bit little-endian")
    source.add_argument("--device", metavar="X", help="microphone, by number or part of its name (default: system's)")
    source.add_argument("--list-devices", action="store_true", help="show the microphones and end")
    parser.add_argument("--model", metavar="float|int8|FILE", help="model of the bundle (default: the manifest's)")
    parser.add_argument("--threshold", metavar="T", type=float, help="score that counts as a detection, 0…1 "
                        "(default: the manifest's, measured on test data)")
    parser.add_argument("--meter", action="store_true", help="show level and score on stderr while listening")
    options = parser.parse_args(arguments)
    if options.bundle is None and not options.list_devices:
        parser.error("BUNDLE is missing, the folder that an export made (it goes before --wav)")
    if options.threshold is not None and not 0 < options.threshold <= 1:
        parser.error("--threshold must be above 0 and at most 1")
    return options


def fail(message: str, code: int = 2) -> NoReturn:
    print(f"listen: error: {message}", file=sys.stderr)
    raise SystemExit(code)


def warn(message: str) -> None:
    print(f"listen: warning: {message}", file=sys.stderr)


class Meter:
    """Level and scores on stderr: one line that moves on a terminal, a line per second elsewhere."""

    def __init__(self, engine: "Engine") -> None:
        self._keywords = engine.keywords
        self._moving = sys.stderr.isatty()
        self._every = 1 if self._moving else max(1, SAMPLE_RATE // engine.hop_samples)
        self._hops = 0

    def show(self, hop: "Samples", scores: list[float]) -> None:
        self._hops += 1
        if self._hops % self._every:
            return
        power = float(hop.dot(hop)) / len(hop)
        level = 10 * math.log10(power) if 0 < power < math.inf else LEVEL_FLOOR
        filled = round(METER_WIDTH * min(1.0, max(0.0, 1 - level / LEVEL_FLOOR)))
        shown = "  ".join(f"{k} {s:.2f}" for k, s in zip(self._keywords, scores, strict=True))
        line = f"[{'#' * filled:{METER_WIDTH}}] {max(level, LEVEL_FLOOR):4.0f} dB  {shown}"
        start, end = ("\r", "\x1b[K") if self._moving else ("", "\n")
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave the line to whoever writes next."""
        if self._moving:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def detect(engine: "Engine", detector: "Detector", hops: Iterable["Samples"], file: str | None,
           meter: Meter | None) -> None:
    """Print every detection of one stream, from zero state."""
    engine.reset()
    detector.reset()
    samples = 0
    for hop in hops:
        samples += len(hop)
        scores = engine.step(hop)
        for keyword in detector.step(scores):
            if meter:
                meter.clear()
            line = {"file": file} if file is not None else {}
            print(json.dumps({**line, "time_s": round(samples / SAMPLE_RATE, 3), "keyword": engine.keywords[keyword],
                              "score": round(float(scores[keyword]), 4)}), flush=True)
        if meter:
            meter.show(hop, scores.tolist())


def listen(options: argparse.Namespace) -> None:
    # Imported here: --help and a mistyped option answer at once, and a device that lacks a package is told which.
    try:
        from runtime import audio
        from runtime.detector import Detector
        from runtime.engine import BundleError, Engine
    except ModuleNotFoundError as missing:
        needs = os.path.join(os.path.dirname(os.path.abspath(__file__)), "requirements.txt")
        fail(f"{missing.name} is not installed: pip install -r {needs}")

    try:
        if options.list_devices:
            for device in audio.list_devices():
                default = ", default" if device.is_default else ""
                print(f"{device.number}: {device.name} ({device.channels} channels, {device.rate} Hz{default})")
            return
        engine = Engine(options.bundle, MODELS.get(options.model, options.model))
        thresholds = engine.thresholds if options.threshold is None else [options.threshold] * len(engine.keywords)
        detector = Detector(thresholds, engine.refractory_hops)
        meter = Meter(engine) if options.meter else None
        try:
            if options.wav:
                for path in options.wav:
                    hops = audio.wav_hops(path, engine.hop_samples, warn)
                    detect(engine, detector, hops, path if len(options.wav) > 1 else None, meter)
            elif options.stdin:
                if sys.stdin is None or sys.stdin.isatty():
                    fail("standard input is a terminal: pipe raw PCM into it, see --help")
                detect(engine, detector, audio.pcm_hops(sys.stdin.buffer, engine.hop_samples, warn), None, meter)
            else:
                microphone = audio.Microphone(options.device, engine.hop_samples)
                try:
                    detect(engine, detector, microphone.hops(), None, meter)
                finally:
                    microphone.close()
                    if microphone.overflows:
                        warn(f"audio was lost {microphone.overflows} times: the machine was too busy")
        finally:
            if meter:
                meter.clear()
            if engine.nan_resets:
                warn(f"{engine.nan_resets} hops were no numbers: the model started over after each")
    except (audio.AudioError, BundleError) as error:
        fail(str(error))


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        listen(options)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes when it ends, and would fail once more
        if isinstance(error, BrokenPipeError):  # the reader of our lines has gone, as `head -1` does
            return 0
        fail(f"detections cannot be written ({error.strerror}): free some space or write elsewhere", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
