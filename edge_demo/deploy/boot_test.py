"""Boot an image, play the keyword, cut the power, repeat: a test of everything but the board.

    sudo make test-image                             # builds the image first
    sudo python -m edge_demo.deploy.boot_test dist/image/earshot.img --cuts 10

The image goes through `make flash OUT=…` with a user and a configuration, and then starts in qemu with nothing but its
disk, a sound card and power: through EFI, systemd-boot, kernel, initramfs, systemd and cloud-init. A WAV is played
into PulseAudio's null sink, the source of the machine's microphone. The first boot has no network. In later ones the
dashboard is reached through a forwarded port: thresholds are saved one after the other until qemu is killed at a random
moment, and at the next boot the last one that was acknowledged must be there, or the one after it. At the end the
disk's file systems are checked, and the payload is compared with what was installed, file by file.

Not tested: a card that loses or changes what it has acknowledged, which a killed qemu does not do.

dist/image/boot-test.log has every line of the serial console and every step of the test. The clip is from EARSHOT_DATA,
if set, else the bundle's keywords.wav.

Exit codes: 0 every keyword was detected and every setting kept; 1 not so; 2 a mistake to be fixed.
"""

import argparse
import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request
import wave
from pathlib import Path
from typing import IO, Any

import numpy as np

from edge_demo.deploy import disk, flash, install, payload
from edge_demo.deploy.command import ROOT, DeployError, add_bundles, need, run
from edge_demo.deploy.virtual_machine import DASHBOARD, FIRMWARE, Failure, Machine, sound
from runtime.bundle.engine import Engine

LOG = ROOT / "dist" / "image" / "boot-test.log"
BOOT_SECONDS, ANSWER_SECONDS, REST_SECONDS = 900, 300, 10
MOST_SECONDS = 8.0  # from a detection to the cut
RATE, HOP = 16_000, 1280


class Thresholds:
    """Saves one threshold after the other through the dashboard. acknowledged: the last one; sent: the next."""

    def __init__(self, port: int, token: str, keyword: str, value: float) -> None:
        self._url, self._token, self._keyword = f"http://127.0.0.1:{port}", token, keyword
        self.acknowledged = self.sent = value
        self.saved = 0

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self._url + path, None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json",
             "Host": f"127.0.0.1:{DASHBOARD}"})  # as if qemu forwarded no other port
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def now(self) -> float:
        """The device's threshold, as soon as it answers."""
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                return next(float(one["threshold"]) for one in self._ask("/state")["keywords"])
            except OSError as error:
                if time.monotonic() > end:
                    raise Failure(f"the dashboard does not answer: {error}") from None
                time.sleep(1)

    def keep_saving(self) -> None:
        """Save thresholds until the power is cut."""
        with contextlib.suppress(OSError, ValueError):  # of the cut; http.client's errors in the middle are both
            while True:
                self.sent = round(0.3 + (self.saved * 7919 % 1999) / 10_000, 4)
                self._ask("/threshold", {"keyword": self._keyword, "threshold": self.sent, "save": True})
                self.acknowledged = self.sent
                self.saved += 1

    def check(self) -> None:
        value = self.now()
        if value not in (self.acknowledged, self.sent):
            raise Failure(f"threshold {value} after the cut, but {self.acknowledged} had been acknowledged")
        self.acknowledged = self.sent = value


def keyword_wav(bundle: Path, out: Path) -> str:
    """Write a WAV with the keyword in faint noise, the clip with the highest score → its name."""
    engine = Engine(str(bundle))
    keyword = engine.keywords[0]
    folder = Path(os.environ.get("EARSHOT_DATA", "/nowhere")) / "speech_commands"
    clips = [*sorted(folder.glob(f"{keyword}/*"))[:20], bundle / "keywords.wav"]
    best, track = 0.0, np.zeros(0, np.float32)
    for clip in clips:
        rng = np.random.default_rng(0)
        speech = read(clip)
        quiet = [rng.standard_normal(RATE * 2).astype(np.float32) * 1e-3 for _ in range(2)]
        audio = np.concatenate((quiet[0], speech, quiet[1]))
        engine.reset()
        score = max(float(engine.step(hop)[0]) for hop in audio[: len(audio) // HOP * HOP].reshape(-1, HOP))
        if score > best:
            best, track, name = score, audio, clip.name
    if best < engine.thresholds[0]:
        raise Failure(f"{bundle}: no clip is detected as {keyword!r}: set EARSHOT_DATA, or export it again")
    with wave.open(str(out), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.clip(track * 32767, -32768, 32767).astype("<i2").tobytes())
    return f"{name} (score {best:.3f})"


def read(path: Path) -> np.ndarray:
    import soundfile

    samples: np.ndarray = soundfile.read(path, dtype="float32")[0]
    return samples


def play_until_detected(machine: Machine, environment: dict[str, str], wav: Path, keyword: str) -> int:
    """Wait for the service, and play the WAV until it is detected → how often. Raises Failure."""
    # "Started" may be missing: systemd prints nothing more once the console has a login prompt.
    if machine.until(r"Start(ing|ed) earshot\.service", BOOT_SECONDS) is None:
        raise Failure(f"the service did not start in {BOOT_SECONDS} s: see {LOG}")
    end = time.monotonic() + ANSWER_SECONDS
    plays = 0
    while time.monotonic() < end:
        seen = len(machine.lines)
        plays += 1
        machine.note("the keyword is played")
        subprocess.run(["paplay", "--device=mic", wav], env=environment, check=True, timeout=120)
        if machine.until(rf'"keyword": "{keyword}"', REST_SECONDS, seen):
            return plays
    raise Failure(f"{keyword!r} was played {plays} times and not detected: see {LOG}")


def check_files(image: Path, bundles: list[Path]) -> None:
    """Raises Failure unless the image has the payload as installed: names, bytes, owners and modes."""
    with disk.mounted(image, disk.partitions(image)[-1]) as system:
        wrong = payload.differences(system, payload.build(flash.python_of(image, system), bundles))
    if wrong:
        raise Failure(f"{image}: {len(wrong)} differences, first {wrong[0]}")


def prepare(image: Path, bundles: list[Path], folder: Path, token: str) -> Path:
    """`make flash OUT=…` as a user would: settings, configuration and a token."""
    key = folder / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
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


def run_test(image: Path, bundles: list[Path], cuts: int, seed: int, log: IO[str]) -> None:
    rng = random.Random(seed)
    token = secrets.token_hex(16)
    keyword = Engine(str(bundles[0])).keywords[0]
    with tempfile.TemporaryDirectory(dir=LOG.parent) as name, sound() as environment:
        folder = Path(name)
        wav = folder / "keyword.wav"
        what = keyword_wav(bundles[0], wav)
        disk_file = prepare(image, bundles, folder, token)
        report(log, f"{image.name}, {cuts} cuts, seed {seed}, {what}")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        shown = round(Engine(str(bundles[0])).thresholds[0], 6)  # by the dashboard
        thresholds = Thresholds(port, token, keyword, shown)
        for boot in range(1, cuts + 2):
            start = time.monotonic()
            machine = Machine(disk_file, environment, None if boot == 1 else port, log, f"boot {boot:2}")
            try:
                plays = play_until_detected(machine, environment, wav, keyword)
                seconds = time.monotonic() - start
                if boot > 1:
                    thresholds.check()
                    writer = threading.Thread(target=thresholds.keep_saving)
                    writer.start()
                pause = rng.uniform(0, MOST_SECONDS)
                time.sleep(pause)
            finally:
                machine.cut()
            if boot > 1:
                writer.join()
            report(log, f"boot {boot:2}: detection {boot} after {seconds:.0f} s (played {plays} times), "
                     f"cut {pause:.1f} s later, {thresholds.saved} thresholds saved so far")
        last = read_threshold(disk_file, keyword)
        if last not in (thresholds.acknowledged, thresholds.sent):
            raise Failure(f"threshold {last} on the disk, but {thresholds.acknowledged} had been acknowledged")
        check_files(disk_file, bundles)
        check_file_systems(disk_file)
    report(log, f"passed: {cuts} power cuts survived, {cuts + 1} detections, no lost configuration")


def read_threshold(image: Path, keyword: str) -> float:
    with disk.mounted(image, disk.partitions(image)[-1]) as system:  # replays the journal, as a boot does
        return float(tomllib.loads((system / install.STATE / install.CONFIG).read_text())["threshold"][keyword])


def check_file_systems(image: Path) -> None:
    """Raises Failure when e2fsck finds an error."""
    with disk.loop_device(image, disk.partitions(image)[-1]) as loop:
        try:
            run("e2fsck", "-f", "-n", loop)
        except DeployError as error:
            raise Failure(f"the root file system is damaged: {error}") from None


def report(log: IO[str], text: str) -> None:
    print(text, flush=True)
    log.write(f"=== {text}\n")
    log.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", metavar="IMAGE", type=Path, help="what make image made")
    add_bundles(parser)
    parser.add_argument("--cuts", metavar="N", type=int, default=10, help="(default: 10)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the random moments")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that child processes are ended
    try:
        need("qemu-system-aarch64")
        if not Path(FIRMWARE).is_file():
            raise DeployError(f"{FIRMWARE}: not installed: make image-system")
        LOG.parent.mkdir(parents=True, exist_ok=True)
        with open(LOG, "w", encoding="utf-8") as log:
            try:
                run_test(options.image, options.bundles, options.cuts, options.seed, log)
            except Failure as failure:
                report(log, f"failed: {failure}")
                return 1
    except (DeployError, OSError) as error:
        print(f"boot_test: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
