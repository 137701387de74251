"""Boot an image, say the keyword, cut the power, and again: what a device does, except for its board.

    sudo make test-image                             # builds the image first
    sudo python -m edge_demo.deploy.boot_test dist/image/earshot.img --cuts 10

The image goes through `make flash OUT=…` with a user and a configuration, and then starts in qemu with nothing but its
disk, a sound card and power: through EFI, systemd-boot, kernel, initramfs, systemd and cloud-init. A WAV is played
into PulseAudio's null sink, which is what the machine's microphone hears. The first boot has no network at all. In
later ones the dashboard is reached through a forwarded port: thresholds are saved one after the other until qemu is
killed at a random moment, and at the next boot the last one that was acknowledged must be there (or the one that was on
its way). At the end the disk's file systems are checked, and the payload is compared with what was installed, file by
file.

What this leaves out: a card that loses or scrambles what it has acknowledged, which a killed qemu does not do.

dist/image/boot-test.log has every line of the serial console, and what was done when. EARSHOT_DATA gives a person's
voice, else the bundle's keywords.wav is played.

Exit codes: 0 everything was heard and kept; 1 something was not; 2 a mistake to be fixed.
"""

import argparse
import contextlib
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from edge_demo.deploy import disk, flash, install, payload
from edge_demo.deploy.arm64 import Arm64Error, need
from runtime.bundle.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
LOG = ROOT / "dist" / "image" / "boot-test.log"
FIRMWARE = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"
BOOT_SECONDS, HEAR_SECONDS, REST_SECONDS = 900, 300, 10
DASHBOARD = 8765  # its port in the guest
MOST_SECONDS = 8.0  # from a detection to the cut
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")  # colours and cursors of a terminal
RATE, HOP = 16_000, 1280


class Failure(Exception):
    """What did not happen, in a line."""


class Machine:
    """One boot, from power-on to the cut. lines: of its serial console so far."""

    def __init__(self, image: Path, environment: dict[str, str], port: int | None, log: IO[str], name: str) -> None:
        network = "none" if port is None else f"user,model=virtio,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{DASHBOARD}"
        self.lines: list[str] = []
        self._log, self._name, self._start = log, name, time.monotonic()
        self.note("power on")
        self.process = subprocess.Popen(
            ["qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "1024",
             "-accel", "tcg,thread=multi", "-bios", FIRMWARE, "-display", "none", "-monitor", "none",
             "-serial", "stdio", "-drive", f"file={image},format=raw,if=virtio", "-nic", network,
             "-audiodev", f"pa,id=sound,server={environment['PULSE_SERVER']},in.name=mic.monitor",
             "-device", "intel-hda", "-device", "hda-duplex,audiodev=sound"],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
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
        """The first line from number `start` on in which the pattern is found, or None after so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in self.lines[start:]:
                if re.search(pattern, line):
                    return line
            if self.process.poll() is not None:
                raise Failure(f"{self._name}: qemu ended with exit code {self.process.returncode}: see {LOG}")
            time.sleep(0.1)
        return None

    def cut(self) -> None:
        """No shutdown, no signal that could be heard."""
        self.note("power cut")
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Thresholds:
    """Saves one threshold after the other through the dashboard. acknowledged: the last one; on_its_way: the next."""

    def __init__(self, port: int, token: str, keyword: str, value: float) -> None:
        self._url, self._token, self._keyword = f"http://127.0.0.1:{port}", token, keyword
        self.acknowledged = self.on_its_way = value
        self.saved = 0

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self._url + path, None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json",
             "Host": f"127.0.0.1:{DASHBOARD}"})  # as if qemu forwarded no other port
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def now(self) -> float:
        """What the device uses, as soon as it answers."""
        end = time.monotonic() + HEAR_SECONDS
        while True:
            try:
                return next(float(one["threshold"]) for one in self._ask("/state")["keywords"])
            except OSError as error:
                if time.monotonic() > end:
                    raise Failure(f"the dashboard does not answer: {error}") from None
                time.sleep(1)

    def save_on(self) -> None:
        """Until the power is cut."""
        with contextlib.suppress(OSError, ValueError):  # of the cut; http.client's errors in the middle are both
            while True:
                self.on_its_way = round(0.3 + (self.saved * 7919 % 1999) / 10_000, 4)
                self._ask("/threshold", {"keyword": self._keyword, "threshold": self.on_its_way, "save": True})
                self.acknowledged = self.on_its_way
                self.saved += 1

    def check(self) -> None:
        found = self.now()
        if found not in (self.acknowledged, self.on_its_way):
            raise Failure(f"threshold {found} after the cut, where {self.acknowledged} had been acknowledged")
        self.acknowledged = self.on_its_way = found


@contextlib.contextmanager
def sound() -> Iterator[dict[str, str]]:
    """A PulseAudio of its own with a null sink `mic` → the environment of who uses it."""
    need("pulseaudio", "paplay", "pactl")
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/native"
        environment = {**os.environ, "HOME": folder, "XDG_RUNTIME_DIR": folder, "PULSE_RUNTIME_PATH": folder,
                       "PULSE_SERVER": f"unix:{address}"}
        server = subprocess.Popen(
            ["pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--disable-shm=yes",
             "-L", f"module-native-protocol-unix socket={address} auth-anonymous=1",
             "-L", "module-null-sink sink_name=mic rate=48000"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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


def keyword_wav(bundle: Path, out: Path) -> str:
    """Write a WAV with the keyword in faint noise, of all clips at hand the one that scores highest → its name."""
    engine = Engine(str(bundle))
    keyword = engine.keywords[0]
    folder = Path(os.environ.get("EARSHOT_DATA", "/nowhere")) / "speech_commands"
    clips = [*sorted(folder.glob(f"{keyword}/*"))[:20], bundle / "keywords.wav"]
    best, track = 0.0, np.zeros(0, np.float32)
    for clip in clips:
        rng = np.random.default_rng(0)
        speech = _read(clip)
        quiet = [rng.standard_normal(RATE * 2).astype(np.float32) * 1e-3 for _ in range(2)]
        sound = np.concatenate((quiet[0], speech, quiet[1]))
        engine.reset()
        score = max(float(engine.step(hop)[0]) for hop in sound[: len(sound) // HOP * HOP].reshape(-1, HOP))
        if score > best:
            best, track, name = score, sound, clip.name
    if best < engine.thresholds[0]:
        raise Failure(f"{bundle}: nothing at hand is detected as {keyword!r}: set EARSHOT_DATA, or export it again")
    with wave.open(str(out), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.clip(track * 32767, -32768, 32767).astype("<i2").tobytes())
    return f"{name} (score {best:.3f})"


def _read(path: Path) -> np.ndarray:
    import soundfile

    samples: np.ndarray = soundfile.read(path, dtype="float32")[0]
    return samples


def hear(machine: Machine, environment: dict[str, str], wav: Path, keyword: str) -> int:
    """Wait for the service, and play the WAV until it is heard → how often that took. Raises Failure."""
    # "Started" may never come: systemd falls silent as soon as the console has a login prompt.
    if machine.until(r"Start(ing|ed) earshot\.service", BOOT_SECONDS) is None:
        raise Failure(f"the service did not start in {BOOT_SECONDS} s: see {LOG}")
    end = time.monotonic() + HEAR_SECONDS
    plays = 0
    while time.monotonic() < end:
        seen = len(machine.lines)
        plays += 1
        machine.note("the keyword is played")
        subprocess.run(["paplay", "--device=mic", wav], env=environment, check=True, timeout=120)
        if machine.until(rf'"keyword": "{keyword}"', REST_SECONDS, seen):
            return plays
    raise Failure(f"{keyword!r} was played {plays} times and not heard: see {LOG}")


def check_files(image: Path, bundles: list[Path]) -> None:
    """Raises Failure unless the payload on an image is what was installed: names, bytes, owners and modes."""
    with disk.mounted(image, disk.partitions(image)[-1]) as system:
        wrong = payload.differences(system, payload.build(flash.python_of(image, system), bundles))
    if wrong:
        raise Failure(f"{image}: {len(wrong)} differences, first {wrong[0]}")


def prepare(image: Path, bundles: list[Path], folder: Path, token: str) -> Path:
    """`make flash OUT=…` as a user would: settings, configuration and a token."""
    key = folder / "key"
    disk.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    settings = folder / "settings.toml"
    settings.touch(0o600)
    settings.write_text(f'hostname = "kitchen"\n[user]\nname = "anna"\npassword = "correct horse"\n'
                        f'ssh-key = "{key}.pub"\n')
    names = json.dumps([str(payload.DEVICE / "bundles" / bundle.name) for bundle in bundles])
    config = folder / "earshot.toml"
    config.write_text(f'bundle = {names}\ndashboard = "0.0.0.0:{DASHBOARD}"\ndashboard-token-file = "token"\n')
    (folder / "token").write_text(f"{token}\n")
    out = folder / "flashed.img"
    command = [sys.executable, "-m", "edge_demo.deploy.flash", "--image", str(image), "--out", str(out),
               "--settings", str(settings), "--config", str(config), *map(str, bundles)]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise Failure("make flash failed")
    return out


def run(image: Path, bundles: list[Path], cuts: int, seed: int, log: IO[str]) -> None:
    rng = random.Random(seed)
    token = secrets.token_hex(16)
    keyword = Engine(str(bundles[0])).keywords[0]
    with tempfile.TemporaryDirectory(dir=LOG.parent) as name, sound() as environment:
        folder = Path(name)
        wav = folder / "keyword.wav"
        what = keyword_wav(bundles[0], wav)
        disk_file = prepare(image, bundles, folder, token)
        say(log, f"{image.name}, {cuts} cuts, seed {seed}, {what}")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        shown = round(Engine(str(bundles[0])).thresholds[0], 6)  # by the dashboard
        thresholds = Thresholds(port, token, keyword, shown)
        for boot in range(1, cuts + 2):
            start = time.monotonic()
            machine = Machine(disk_file, environment, None if boot == 1 else port, log, f"boot {boot:2}")
            try:
                plays = hear(machine, environment, wav, keyword)
                heard = time.monotonic() - start
                if boot > 1:
                    thresholds.check()
                    writer = threading.Thread(target=thresholds.save_on)
                    writer.start()
                pause = rng.uniform(0, MOST_SECONDS)
                time.sleep(pause)
            finally:
                machine.cut()
            if boot > 1:
                writer.join()
            say(log, f"boot {boot:2}: detection {boot} after {heard:.0f} s (played {plays} times), "
                     f"cut {pause:.1f} s later, {thresholds.saved} thresholds saved so far")
        last = read_threshold(disk_file, keyword)
        if last not in (thresholds.acknowledged, thresholds.on_its_way):
            raise Failure(f"threshold {last} on the disk, where {thresholds.acknowledged} had been acknowledged")
        check_files(disk_file, bundles)
        check_file_systems(disk_file)
    say(log, f"passed: {cuts} power cuts survived, {cuts + 1} detections, no lost configuration")


def read_threshold(image: Path, keyword: str) -> float:
    import tomllib

    with disk.mounted(image, disk.partitions(image)[-1]) as system:  # which replays the journal, as a boot does
        return float(tomllib.loads((system / install.STATE / install.CONFIG).read_text())["threshold"][keyword])


def check_file_systems(image: Path) -> None:
    """Raises Failure unless e2fsck finds nothing to mend."""
    root = disk.partitions(image)[-1]
    loop = disk.run("losetup", "--find", "--show", f"--offset={root.start}", f"--sizelimit={root.size}", image).strip()
    try:
        disk.run("e2fsck", "-f", "-n", loop)
    except disk.DiskError as error:
        raise Failure(f"the root file system is damaged: {error}") from None
    finally:
        disk.run("losetup", "--detach", loop)


def say(log: IO[str], text: str) -> None:
    print(text, flush=True)
    log.write(f"=== {text}\n")
    log.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", metavar="IMAGE", type=Path, help="what make image made")
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE", type=Path, default=[ROOT / "dist" / "happy-ensemble"],
                        help="(default: dist/happy-ensemble)")
    parser.add_argument("--cuts", metavar="N", type=int, default=10, help="(default: 10)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the random moments")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and not before what it has started is ended
    try:
        need("qemu-system-aarch64")
        if not Path(FIRMWARE).is_file():
            raise Arm64Error(f"{FIRMWARE}: not installed: make image-system")
        LOG.parent.mkdir(parents=True, exist_ok=True)
        with open(LOG, "w", encoding="utf-8") as log:
            try:
                run(options.image, options.bundles, options.cuts, options.seed, log)
            except Failure as failure:
                say(log, f"failed: {failure}")
                return 1
    except (Arm64Error, disk.DiskError, payload.PayloadError, flash.FlashError, OSError) as error:
        print(f"boot_test: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
