"""Put Earshot and a first-boot configuration onto a Raspberry Pi OS Lite image, and write it to a card.

    sudo make flash IMAGE=raspios-lite-arm64.img.xz DEVICE=/dev/sdb SETTINGS=kitchen.toml
    sudo make flash IMAGE=raspios-lite-arm64.img.xz OUT=kitchen.img SETTINGS=kitchen.toml    # a file instead of a card
    sudo python -m edge_demo.deploy.flash --image … --device … [--settings FILE] [--config earshot.toml] [BUNDLE …]

Works on Raspberry Pi OS Lite (64-bit), Bookworm and Trixie, packed (.xz) or not, and on what `make image` made. The
image is not booted: its partitions are mounted, which needs root. The settings are a TOML file: see settings.py.

--device is erased. It must be a whole disk that is removable, of at most 256 GB (or named again with --force sdb), and
nothing of it may be mounted or used. What was written is read back and compared.

Exit codes: 0 done; 2 a mistake to be fixed: the device is as it was, unless the line says otherwise.
"""

import argparse
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edge_demo.deploy import disk, payload
from edge_demo.deploy.arm64 import Arm64Error
from edge_demo.deploy.disk import DiskError, Partition
from edge_demo.deploy.payload import PayloadError
from edge_demo.deploy.settings import SettingsError, check_user, read_settings

ROOT = Path(__file__).resolve().parents[2]
FIRSTRUN = Path(__file__).with_name("firstrun.py")
LARGEST = 256_000_000_000  # bytes of a card
CHUNK = 4 << 20  # bytes
SPARE = 64 << 20  # bytes that stay free on the root partition
RUN_ONCE = ("systemd.run=/boot/firmware/firstrun.py systemd.run_success_action=reboot "
            "systemd.run_failure_action=reboot systemd.unit=kernel-command-line.target")
GROUPS = "adm,dialout,cdrom,sudo,audio,video,plugdev,games,users,input,render,netdev,gpio,i2c,spi"


class FlashError(Exception):
    """A mistake of the user's. The message is one line: what is wrong and what to do."""


# Onto an image


def put(image: Path, bundles: list[Path], config: Path | None, settings: dict[str, Any] | None) -> None:
    """Put a release, its configuration and the settings onto an image in a file, in place.

    Raises FlashError, SettingsError, DiskError, PayloadError and Arm64Error; the image may then be half-done.
    """
    parts = disk.partitions(image)
    if len(parts) < 2:
        raise FlashError(f"{image}: has {len(parts)} partitions, where Raspberry Pi OS has two: take its image")
    firmware, root = parts[0], parts[-1]
    with disk.mounted(image, root, "ro") as folder:
        python = python_of(image, folder)
        check_user(folder, settings or {})
    release = payload.build(python, bundles)
    size = sum(os.lstat(Path(place, name)).st_blocks * 512 for place, _, names in os.walk(release) for name in names)
    root = disk.make_room(image, root, size + SPARE)
    with tempfile.TemporaryDirectory() as folder:
        if config is not None:
            payload.config_folder(config, bundles, Path(folder))
        with disk.mounted(image, root) as system:
            payload.into(system, release, Path(folder) if config is not None else None)
    if settings:
        configure(image, firmware, root, settings)


def python_of(image: Path, root: Path) -> str:
    """The version of a system's Python, such as 3.13. Raises FlashError when it is not a 64-bit Arm system."""
    python = root / "usr/bin/python3"
    match = re.fullmatch(r"python(3\.\d+)", os.readlink(python)) if python.is_symlink() else None
    if match is None or not (root / "usr/lib/aarch64-linux-gnu").is_dir():
        raise FlashError(f"{image}: no 64-bit Arm system with Python: take Raspberry Pi OS Lite (64-bit)")
    return match[1]


def configure(image: Path, firmware: Partition, root: Partition, settings: dict[str, Any]) -> None:
    """Leave the settings where the system's own mechanism finds them at its first boot: cloud-init's files where there
    is cloud-init (Trixie), else a program that the kernel's command line has systemd run once (Bookworm).
    """
    command_line = disk.fat_read(image, firmware, "cmdline.txt")
    files: dict[str, str] = {}
    with disk.mounted(image, root) as system:
        if "wifi" in settings and not (system / "usr/sbin/NetworkManager").exists():
            raise FlashError(f"{image}: has no NetworkManager, so no Wi-Fi: leave [wifi] out, and use a cable")
        fstab = system / "etc/fstab"
        fstab.write_text(for_root_alone(fstab.read_text()))
        if (system / "usr/bin/cloud-init").exists():
            files |= cloud_init(settings)
            (system / "etc/cloud/cloud-init.disabled").unlink(missing_ok=True)
        elif command_line is not None:
            files |= {"firstrun.json": json.dumps(settings), "firstrun.py": FIRSTRUN.read_text()}
            command_line = append(command_line, RUN_ONCE)
        else:
            raise FlashError(f"{image}: knows neither cloud-init nor cmdline.txt: take Raspberry Pi OS Lite (64-bit)")
    if command_line is not None:
        if "wifi" in settings:
            command_line = append(command_line, f"cfg80211.ieee80211_regdom={settings['wifi']['country']}")
        files["cmdline.txt"] = command_line
    for name, text in files.items():
        disk.fat_write(image, firmware, name, text)


def for_root_alone(fstab: str) -> str:
    """The boot partition mounted for root alone: FAT knows no modes, and the settings are there until they are used."""
    return re.sub(r"^(\S+\s+/boot(?:/firmware)?\s+vfat\s+)(?!\S*umask)(\S+)", r"\1\2,umask=0077", fstab, flags=re.M)


def append(line: str, words: str) -> str:
    """To the kernel's command line, in place of words of the same names."""
    names = {word.partition("=")[0] for word in words.split()}
    kept = [word for word in line.split() if word.partition("=")[0] not in names]
    return " ".join([*kept, words]) + "\n"


def cloud_init(settings: dict[str, Any]) -> dict[str, str]:
    """Settings → files by name. JSON is YAML, and safe from what stands in a password."""
    secrets = [f"/boot/firmware/{name}" for name in ("user-data", "network-config")]
    # Once is enough. First it is disabled: cloud-init that finds no user-data would set the system up without.
    user_data: dict[str, Any] = {"runcmd": [
        ["touch", "/etc/cloud/cloud-init.disabled"], ["sync"], ["rm", "-f", *secrets]]}
    if "hostname" in settings:
        user_data |= {"hostname": settings["hostname"], "manage_etc_hosts": True}
    if "user" in settings:
        user = settings["user"]
        user_data["users"] = [{
            "name": user["name"], "groups": GROUPS, "shell": "/bin/bash", "sudo": "ALL=(ALL) NOPASSWD:ALL",
            **({"passwd": user["password"], "lock_passwd": False} if "password" in user else {}),
            **({"ssh_authorized_keys": [user["ssh-key"]]} if "ssh-key" in user else {})}]
        user_data["ssh_pwauth"] = "ssh-key" not in user  # who has a key needs no password that others may guess
        user_data["runcmd"].insert(0, ["systemctl", "enable", "--now", "ssh"])
    if "keyboard" in settings:
        user_data["keyboard"] = {"layout": settings["keyboard"]["layout"]}
    # A new name each time: cloud-init does its work once for each.
    files = {"user-data": "#cloud-config\n" + json.dumps(user_data, indent=1) + "\n",
             "meta-data": json.dumps({"instance-id": f"earshot-{uuid.uuid4()}"}) + "\n"}
    if "wifi" in settings:
        wifi = settings["wifi"]
        files["network-config"] = json.dumps({"version": 2, "ethernets": {"eth0": {"dhcp4": True, "optional": True}},
            "wifis": {"wlan0": {"dhcp4": True, "optional": True, "regulatory-domain": wifi["country"],
                                "access-points": {wifi["name"]: {"password": wifi["password"]}}}}}, indent=1) + "\n"
    return files


# Onto a card


def check_device(device: Path, forced: str | None) -> str:
    """What is about to be erased, in words. Raises FlashError unless it is a card that nobody uses.

    forced: the device's name, which allows one that is not removable or large. One that is in use is never written to.
    """
    try:
        is_block = stat.S_ISBLK(device.stat().st_mode)
    except OSError as error:
        raise FlashError(f"{device}: {error.strerror}: lsblk shows what there is") from None
    name = device.resolve().name
    about = Path("/sys/class/block", name)
    if not is_block or not about.exists():
        raise FlashError(f"{device}: is no disk: lsblk shows what there is; for a file use OUT={device}")
    if (about / "partition").exists():
        raise FlashError(f"{device}: is a partition: name the whole disk, {about.resolve().parent.name}")
    parts = [name, *(path.parent.name for path in about.glob("*/partition"))]
    numbers = {Path("/sys/class/block", part, "dev").read_text().strip(): part for part in parts}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] in numbers:
            raise FlashError(f"{device}: {numbers[fields[2]]} is mounted on {fields[4]}: umount {fields[4]}")
    swaps = [Path(line.split()[0]).name for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    for part in parts:
        holders = Path("/sys/class/block", part, "holders")
        if part in swaps or (holders.is_dir() and any(holders.iterdir())):
            raise FlashError(f"{device}: {part} is in use, as swap space or part of another disk: this is no card")
    size = int((about / "size").read_text()) * 512
    kind = _text(about / "device/type")
    is_removable = _text(about / "removable") == "1" or kind == "SD"
    problem = "" if is_removable else "is not removable"
    if size > LARGEST:
        problem = f"has {size / 1e9:.0f} GB, more than a card's 256"
    if problem and forced != name:
        raise FlashError(f"{device}: {problem}: if you mean it, add FORCE={name}")
    model = " ".join(filter(None, (_text(about / "device" / name) for name in ("vendor", "model", "name"))))
    return f"{device}: {model or 'no name'}, {size / 1e9:.1f} GB"


def _text(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def write(image: Path, device: Path) -> None:
    """Copy an image to a device, and read it back. Raises FlashError."""
    size = image.stat().st_size
    try:
        handle = os.open(device, os.O_RDWR | os.O_EXCL)  # the kernel refuses it when it is mounted
        try:
            if os.lseek(handle, 0, os.SEEK_END) < size:
                raise FlashError(f"{device}: is smaller than the image of {size / 1e9:.1f} GB: take a larger card")
            os.lseek(handle, 0, os.SEEK_SET)
            with open(image, "rb") as source, open(handle, "r+b", buffering=0, closefd=False) as target:
                written = _pump(source, size, "writing", target)
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)  # read the card, not what is remembered of it
                target.seek(0)
                if _pump(target, size, "verifying") != written:
                    raise FlashError(f"{device}: gives back other bytes than were written: take another card")
        finally:
            os.close(handle)
    except OSError as error:
        raise FlashError(f"{device}: {error.strerror}: it is not written whole") from None


def _pump(source: Any, size: int, what: str, target: Any = None) -> str:
    """The SHA-256 of so many bytes, written to `target` on the way."""
    digest = hashlib.sha256()
    with tqdm(total=size, unit="B", unit_scale=True, desc=what) as bar:
        while bar.n < size:
            chunk = source.read(min(CHUNK, size - bar.n))
            if not chunk:
                break
            digest.update(chunk)
            view = memoryview(chunk)
            while target is not None and view:
                view = view[target.write(view):]
            bar.update(len(chunk))
    return digest.hexdigest()


def unpack(image: Path, out: Path) -> None:
    """A copy to work on. Raises FlashError."""
    try:
        if image.suffix == ".xz":
            with lzma.open(image) as source, open(out, "wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
        else:
            disk.run("cp", "--sparse=always", image, out)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise FlashError(f"{image}: cannot be unpacked ({error}): download it again") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE", type=Path, default=[ROOT / "dist" / "happy-ensemble"],
                        help="what it listens for (default: dist/happy-ensemble)")
    parser.add_argument("--image", metavar="FILE", type=Path, required=True, help=".img or .img.xz")
    parser.add_argument("--settings", metavar="FILE", type=Path, help="host name, user, Wi-Fi, keyboard")
    parser.add_argument("--config", metavar="FILE", type=Path, help="the device's earshot.toml")
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--device", metavar="/dev/…", type=Path, help="the card, which is erased")
    goal.add_argument("--out", metavar="FILE", type=Path, help="an image, to be written to a card later")
    parser.add_argument("--force", metavar="NAME", help="of a device that does not look like a card")
    options = parser.parse_args()
    part = None
    try:
        settings = read_settings(options.settings) if options.settings else None
        if options.device:
            check_device(options.device, options.force)
        folder = options.out.parent if options.out else ROOT / "dist"
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkstemp(prefix=".flash-", suffix=".img", dir=folder)[1])
        unpack(options.image, part)
        put(part, options.bundles, options.config, settings)
        if options.out:
            part.chmod(0o600 if settings or options.config else options.image.stat().st_mode & 0o644)
            part.replace(options.out)
            print(f"{options.out}: {options.out.stat().st_size >> 20} MB")
        else:
            print("erasing", check_device(options.device, options.force), flush=True)
            write(part, options.device)
            print("done: take the card out")
    except (FlashError, SettingsError, DiskError, PayloadError, Arm64Error, OSError) as error:
        print(f"flash: error: {error}", file=sys.stderr)
        return 2
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
