"""Put Earshot and a first-boot configuration onto a Raspberry Pi OS Lite image, and write it to a card.

    sudo make flash IMAGE=raspios-lite-arm64.img.xz DEVICE=/dev/sdb SETTINGS=kitchen.toml
    sudo make flash IMAGE=raspios-lite-arm64.img.xz OUT=kitchen.img SETTINGS=kitchen.toml    # a file instead of a card
    sudo python -m edge_demo.deploy.flash --image … --device … [--settings FILE] [--config earshot.toml] [BUNDLE …]

Works on Raspberry Pi OS Lite (64-bit), Bookworm and Trixie, packed (.xz) or not, and on images by `make image`. The
image is not booted: its partitions are mounted, which needs root. The settings are a TOML file: see settings.py.

--device is erased. It must be a whole disk that is removable, of at most 256 GB (or named again with --force sdb), and
no part of it may be mounted or in use. The card is read back and compared.

Exit codes: 0 done; 2 a mistake to be fixed: the device is as it was, unless the line says otherwise.
"""

import argparse
import lzma
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from edge_demo.deploy import card, disk, payload
from edge_demo.deploy.command import ROOT, DeployError, add_bundles
from edge_demo.deploy.disk import CHUNK
from edge_demo.deploy.first_boot import configure
from edge_demo.deploy.install import InstallError
from edge_demo.deploy.settings import check_user, read_settings

LARGEST_IMAGE = 32 << 30  # bytes unpacked; Raspberry Pi OS has 3 (Lite) to 15
UNPACK_MEMORY = 256 << 20  # bytes; what xz -9 has packed takes 65 MB
SPARE = 64 << 20  # bytes that stay free on the root partition


def put(image: Path, bundles: list[Path], config: Path | None, settings: dict[str, Any] | None) -> None:
    """Put a release, its configuration and the settings onto an image in a file, in place.

    Raises DeployError and InstallError; the image may then be incomplete.
    """
    parts = disk.partitions(image)
    if len(parts) < 2:
        raise DeployError(f"{image}: has {len(parts)} partitions, where Raspberry Pi OS has two: take its image")
    firmware, root = parts[0], parts[-1]
    with disk.loop_device(image, root) as device:
        disk.check(device)
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
    """The version of a system's Python, such as 3.13. Raises DeployError when it is not a 64-bit Arm system."""
    python = root / "usr/bin/python3"
    match = re.fullmatch(r"python(3\.\d+)", os.readlink(python)) if python.is_symlink() else None
    if match is None or not (root / "usr/lib/aarch64-linux-gnu").is_dir():
        raise DeployError(f"{image}: no 64-bit Arm system with Python: take Raspberry Pi OS Lite (64-bit)")
    return match[1]


def unpack(image: Path, out: Path) -> None:
    """A copy to work on, which takes no room where there are zeros. Raises DeployError."""
    if not image.is_file():
        raise DeployError(f"{image}: is no file: name a .img or .img.xz")
    room = shutil.disk_usage(out.parent).free * 9 // 10
    try:
        with open(image, "rb") as source, open(out, "wb") as target:
            for chunk in _unxz(source) if image.suffix == ".xz" else iter(lambda: source.read(CHUNK), b""):
                if chunk.count(0) == len(chunk):
                    target.seek(len(chunk), os.SEEK_CUR)
                else:
                    room -= target.write(chunk)
                if target.tell() > LARGEST_IMAGE:
                    raise DeployError(f"{image}: is larger than {LARGEST_IMAGE >> 30} GB: take Raspberry Pi OS Lite")
                if room < 0:
                    raise DeployError(f"{image}: is larger than what {out.parent} has room for: free some there")
            target.truncate()
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DeployError(f"{image}: cannot be unpacked ({error}): download it again") from None


def _unxz(source: BinaryIO) -> Iterator[bytes]:
    """What is in a .xz file, whose streams may be several. Raises LZMAError, and EOFError when it ends too soon."""
    decoder, packed = None, b""
    while packed or (packed := source.read(CHUNK)):
        if decoder is None:
            packed = packed.lstrip(b"\0")  # which may stand between two
            if not packed:
                continue
            decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, UNPACK_MEMORY)
        yield decoder.decompress(packed, CHUNK)
        while not (decoder.needs_input or decoder.eof):
            yield decoder.decompress(b"", CHUNK)
        packed = decoder.unused_data
        if decoder.eof:
            decoder = None
    if decoder is not None:
        raise EOFError("it ends too soon")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundles(parser)
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
            card.check_device(options.device, options.force)
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
            print("erasing", card.check_device(options.device, options.force), flush=True)
            card.write(part, options.device)
            print("done: take the card out")
    except (DeployError, InstallError, OSError) as error:
        print(f"flash: error: {error}", file=sys.stderr)
        return 2
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
