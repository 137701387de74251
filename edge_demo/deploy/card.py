"""Write an image to a card, and refuse any disk that is not one."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edge_demo.deploy.command import DeployError
from edge_demo.deploy.disk import CHUNK

LARGEST = 256_000_000_000  # bytes of a card


def check_device(device: Path, forced: str | None) -> str:
    """Describe the device. Raises DeployError unless it is a card that is not in use.

    forced: the device's name, which allows a disk that is not removable or is large, but never one in use.
    """
    try:
        is_block = stat.S_ISBLK(device.stat().st_mode)
    except OSError as error:
        raise DeployError(f"{device}: {error.strerror}: see lsblk") from None
    name = device.resolve().name
    about = Path("/sys/class/block", name)
    if not is_block or not about.exists():
        raise DeployError(f"{device}: is no disk: see lsblk; for a file use OUT={device}")
    if (about / "partition").exists():
        raise DeployError(f"{device}: is a partition: name the whole disk, {about.resolve().parent.name}")
    parts = [name, *(path.parent.name for path in about.glob("*/partition"))]
    numbers = {Path("/sys/class/block", part, "dev").read_text().strip(): part for part in parts}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] in numbers:
            raise DeployError(f"{device}: {numbers[fields[2]]} is mounted on {fields[4]}: umount {fields[4]}")
    swaps = [Path(line.split()[0]).name for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    for part in parts:
        holders = Path("/sys/class/block", part, "holders")
        if part in swaps or (holders.is_dir() and any(holders.iterdir())):
            raise DeployError(f"{device}: {part} is in use, as swap space or part of another disk: this is no card")
    size = int((about / "size").read_text()) * 512
    kind = content_of(about / "device/type")
    is_removable = content_of(about / "removable") == "1" or kind == "SD"
    problem = "" if is_removable else "is not removable"
    if size > LARGEST:
        problem = f"has {size / 1e9:.0f} GB, more than a card's 256"
    if problem and forced != name:
        raise DeployError(f"{device}: {problem}: if you mean it, add FORCE={name}")
    model = " ".join(filter(None, (content_of(about / "device" / name) for name in ("vendor", "model", "name"))))
    return f"{device}: {model or 'no name'}, {size / 1e9:.1f} GB"


def content_of(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def write(image: Path, device: Path) -> None:
    """Copy an image to a device, and read it back. Raises DeployError."""
    size = image.stat().st_size
    try:
        handle = os.open(device, os.O_RDWR | os.O_EXCL)  # the kernel refuses it when it is mounted
        try:
            if os.lseek(handle, 0, os.SEEK_END) < size:
                raise DeployError(f"{device}: is smaller than the image of {size / 1e9:.1f} GB: take a larger card")
            os.lseek(handle, 0, os.SEEK_SET)
            with open(image, "rb") as source, open(handle, "r+b", buffering=0, closefd=False) as target:
                written = copy(source, size, "writing", target)
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)  # read the card, not the page cache
                target.seek(0)
                if copy(target, size, "verifying") != written:
                    raise DeployError(f"{device}: returns other bytes than were written: take another card")
        finally:
            os.close(handle)
    except OSError as error:
        raise DeployError(f"{device}: {error.strerror}: it is not written whole") from None


def copy(source: Any, size: int, what: str, target: Any = None) -> str:
    """Copy `size` bytes to `target`, if any → their SHA-256."""
    digest = hashlib.sha256()
    with tqdm(total=size, unit="B", unit_scale=True, desc=what) as bar:
        while bar.n < size:
            chunk = source.read(min(CHUNK, size - bar.n))
            if not chunk:
                break
            digest.update(chunk)
            view = memoryview(chunk)
            while target is not None and view:
                view = view[target.write(view) :]
            bar.update(len(chunk))
    return digest.hexdigest()
