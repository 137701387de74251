"""Listen for a bundle's keywords and print a line per detection: JSON, or text on a terminal.

python runtime/listen.py dist/happy-ensemble                   # the microphone
python runtime/listen.py dist/happy-ensemble --wav a.wav b.wav
arecord -q -r 16000 -f S16_LE -c 1 -t raw | python runtime/listen.py dist/happy-ensemble --stdin

Runs from any folder, as a script or as `python -m runtime.listen`. Needs numpy and onnxruntime; PyAudio for the
microphone, and soxr for other rates than 16 kHz.
"""

import os
import signal
import sys
from typing import NoReturn

if not __package__:  # run as a script: find this folder as the package it is
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from runtime.errors import OptionsError
from runtime.journal import remark
from runtime.options import parse


def fail(message: str, code: int = 2) -> NoReturn:
    remark(f"listen: error: {message}")
    raise SystemExit(code)


def listen(arguments: list[str] | None) -> int:
    """The exit code."""
    try:
        options = parse(arguments)
    except OptionsError as error:
        fail(str(error))
    # Imported here: --help and a mistyped option answer at once, and a device that lacks a package is told which.
    try:
        from runtime.audio.hops import AudioError, list_devices
        from runtime.errors import BundleError
        from runtime.listener import Listener
    except ModuleNotFoundError as missing:
        needs = os.path.join(os.path.dirname(os.path.abspath(__file__)), "requirements.txt")
        fail(f"{missing.name} is not installed: pip install -r {needs}")

    try:
        if options.list_devices:
            devices = list_devices()
            if not devices:
                raise AudioError("there is no microphone: plug one in, and see whether arecord -l shows it; under "
                                 "PulseAudio or PipeWire, see pactl list short sources")
            for device in devices:
                default = ", default" if device.is_default else ""
                print(f"{device.number}: {device.name} ({device.channels} channels, {device.rate} Hz{default})")
            return 0
        return Listener(arguments, options).run()
    except (AudioError, BundleError, OptionsError) as error:
        fail(str(error))


def open_standard_streams() -> None:
    """Give those that whoever started us has closed a place to go: else the next file or socket gets their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:  # print would take stdout
        sys.stderr = os.fdopen(2, "w", errors="backslashreplace", closefd=False)


def main(arguments: list[str] | None = None) -> int:
    open_standard_streams()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return listen(arguments)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes when it ends, and would fail once more
        if isinstance(error, BrokenPipeError):  # the reader of our lines has gone, as `head -1` does
            return 0
        fail(f"detections cannot be written ({error.strerror}): free some space or write elsewhere", 1)


if __name__ == "__main__":
    sys.exit(main())
