"""Microphones: which there are, and opening one. Without numpy, so that a try in another process costs little."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

if not __package__:  # run as a script, by microphone.Probe: find the room as the package it is
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from runtime.errors import AudioError
from runtime.sample_rate import SAMPLE_RATE

OPENED = "opened"


class Device(NamedTuple):
    """A microphone as PyAudio knows it."""

    number: int
    name: str
    channels: int
    rate: int  # Hz, the device's own
    is_default: bool


def list_devices() -> list[Device]:
    """Every device that can record. Raises AudioError when there is no PyAudio, or no sound system."""
    pyaudio = import_pyaudio()
    try:
        with quiet():
            host = pyaudio.PyAudio()
    except OSError as error:
        raise AudioError(f"microphone: PortAudio cannot start ({error}): is the sound system in order?") from None
    try:
        return devices_of(host)
    finally:
        host.terminate()


def import_pyaudio() -> Any:
    try:
        import pyaudio
    except ImportError:
        raise AudioError("microphone: needs PyAudio: apt install python3-pyaudio, or pip install pyaudio; or do "
                         "without: arecord -q -r 16000 -f S16_LE -c 1 -t raw | listen.py BUNDLE --stdin") from None
    return pyaudio


def devices_of(host: Any) -> list[Device]:
    """Every device that an open PyAudio can record from."""
    try:
        default = host.get_default_input_device_info()["index"]
    except OSError:
        default = None
    every = (host.get_device_info_by_index(index) for index in range(host.get_device_count()))
    return [Device(d["index"], d["name"], d["maxInputChannels"], round(d["defaultSampleRate"]), d["index"] == default)
            for d in every if d["maxInputChannels"] > 0]


def choose(devices: list[Device], wanted: str | None) -> Device:
    """The device of that index, or the only one with that text in its name; None: the default. Raises AudioError."""
    if wanted is None:
        found = [device for device in devices if device.is_default] or devices[:1]
    elif wanted.isdecimal():
        found = [device for device in devices if device.number == int(wanted)]
    else:
        found = ([device for device in devices if device.name == wanted]
                 or [device for device in devices if wanted.lower() in device.name.lower()])
    if not found:
        what = "no microphone" if wanted is None else f"no microphone {wanted!r}"
        raise AudioError(f"{what}: plug one in, or see --list-devices")
    if len(found) > 1:
        choice = ", ".join(f"{device.number} ({device.name})" for device in found)
        raise AudioError(f"microphone {wanted!r}: could be {choice}: give the number")
    return found[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ALSA and JACK from writing pages to stderr about every device that is not there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class Opened(NamedTuple):
    """A device that records. stream and host are PyAudio's; frames are of 16-bit integers."""

    device: Device
    rate: int  # Hz
    channels: int
    stream: Any
    host: Any

    def close(self) -> None:
        """Stop recording and let go of the device."""
        with quiet():
            try:
                self.stream.close()
            except OSError:  # of a device that was pulled out; there is nothing left to close
                pass
            finally:
                self.host.terminate()


def open_device(wanted: str | None, hop_samples: int, heard: Callable[..., tuple[None, int]]) -> Opened:
    """Record a device, with 16 kHz and one channel where it does that, else what it can. Raises AudioError.

    wanted: see `choose`. heard(data, frames, times, status) is called from a thread of PortAudio's.
    """
    pyaudio = import_pyaudio()
    with quiet():
        host = pyaudio.PyAudio()
        try:
            device = choose(devices_of(host), wanted)
            refusal: Exception | None = None
            for rate in dict.fromkeys((SAMPLE_RATE, device.rate)):
                for channels in dict.fromkeys((1, device.channels)):
                    try:
                        stream = host.open(
                            rate=rate, channels=channels, format=pyaudio.paInt16, input=True, start=False,
                            input_device_index=device.number, stream_callback=heard,
                            frames_per_buffer=round(hop_samples * rate / SAMPLE_RATE))
                        return Opened(device, rate, channels, stream, host)
                    except (OSError, ValueError) as error:
                        refusal = error
            raise AudioError(f"microphone {device.name!r}: cannot be opened ({refusal}): "
                             "end what else records from it, or choose another of --list-devices")
        except BaseException:
            host.terminate()
            raise


def main() -> None:
    """Try to open the device named by the argument, and write OPENED or why not."""
    try:
        opened = open_device(sys.argv[2] if len(sys.argv) > 2 else None, int(sys.argv[1]), lambda *_: (None, 0))
    except (AudioError, OSError) as error:
        print(error)
    else:
        print(OPENED, flush=True)
        opened.close()


if __name__ == "__main__":
    main()
