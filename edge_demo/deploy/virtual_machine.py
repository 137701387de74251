"""An arm64 machine under qemu, with a sound card that hears what is played into PulseAudio's null sink."""

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from edge_demo.deploy.command import need

FIRMWARE = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"
DASHBOARD = 8765  # its port in the guest
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")  # colours and cursors of a terminal


class Failure(Exception):
    """A failed test. The message is one line."""


class Machine:
    """One boot, from power-on to the cut. lines: of its serial console so far."""

    def __init__(self, image: Path, environment: dict[str, str], port: int | None, log: IO[str], name: str) -> None:
        network = "none" if port is None else f"user,model=virtio,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{DASHBOARD}"
        self.lines: list[str] = []
        self._log, self._name, self._start = log, name, time.monotonic()
        self.note("power on")
        options = (
            "-machine virt -cpu cortex-a72 -smp 2 -m 1024 -accel tcg,thread=multi -display none -monitor none "
            f"-serial stdio -bios {FIRMWARE} -nic {network} -device intel-hda -device hda-duplex,audiodev=sound"
        )
        disk = "-drive", f"file={image},format=raw,if=virtio"
        microphone = "-audiodev", f"pa,id=sound,server={environment['PULSE_SERVER']},in.name=mic.monitor"
        self.process = subprocess.Popen(
            ["qemu-system-aarch64", *options.split(), *disk, *microphone],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for data in self.process.stdout:
            line = CODES.sub("", data.decode(errors="replace")).strip()
            if line:
                self.note(line)
                self.lines.append(line)

    def note(self, text: str) -> None:
        self._log.write(f"{self._name} {time.monotonic() - self._start:6.1f} s  {text}\n")
        self._log.flush()

    def until(self, pattern: str, seconds: float, start: int = 0) -> str | None:
        """The first line from number `start` on that matches the pattern, or None after so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self.lines[start:]:
                if re.search(pattern, line):
                    return line
            if self.process.poll() is not None:
                raise Failure(
                    f"{self._name}: qemu ended with exit code {self.process.returncode}: see {self._log.name}"
                )
            time.sleep(0.1)
        return None

    def cut(self) -> None:
        """Kill qemu: no shutdown."""
        self.note("power cut")
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def sound() -> Iterator[dict[str, str]]:
    """Run a PulseAudio server with a null sink `mic`; yields the environment for its clients."""
    need("pulseaudio", "paplay", "pactl")
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/native"
        folders = dict.fromkeys(("HOME", "XDG_RUNTIME_DIR", "PULSE_RUNTIME_PATH"), folder)
        environment = os.environ | folders | {"PULSE_SERVER": f"unix:{address}"}
        options = "-n --daemonize=no --use-pid-file=no --exit-idle-time=-1 --disable-shm=yes"
        modules = (
            f"module-native-protocol-unix socket={address} auth-anonymous=1",
            "module-null-sink sink_name=mic rate=48000",
        )
        server = subprocess.Popen(
            ["pulseaudio", *options.split(), *(f"--load={module}" for module in modules)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for _ in range(100):
                if subprocess.run(["pactl", "info"], env=environment, capture_output=True).returncode == 0:
                    break
                time.sleep(0.1)
            else:
                raise Failure("pulseaudio did not start")
            yield environment
        finally:
            server.kill()
            server.wait()
