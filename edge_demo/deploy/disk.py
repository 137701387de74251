"""Disk images in files: their partitions, mounted one at a time. Mounting needs root.

An image is a stranger's. Programs that read it have limits and run as a user who has nothing else (`run_on`); its file
system is checked before it is mounted, and the mount follows no link.
"""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from edge_demo.deploy.command import DeployError, run

SECTOR = 512  # bytes
CHUNK = 4 << 20  # bytes that are copied at once
USERS = range(61184, 65520)  # systemd's for services that need no account: no file is theirs
SECONDS = 600  # that a program may take on an image
LARGEST_OUTPUT = 1 << 20  # bytes that it may say
# The last, as ext4 may ask for a stop of the kernel at its first error.
MOUNT = "loop,nodev,nosuid,noexec,nosymfollow,errors=remount-ro"


class Partition(NamedTuple):
    """A part of an image, in bytes. number: counted from 1."""

    number: int
    start: int
    size: int


def lone_user() -> int | None:
    """The number of a user and a group that nobody else is, to run what reads a stranger's files.

    None where this process cannot become another user: only root can.
    """
    return random.choice(USERS) if os.geteuid() == 0 else None


def run_on(image: Path, *command: str, text: str = "", good: tuple[int, ...] = (0,)) -> str:
    """The output of a program on an image or a block device, in whose place {} stands in the command.

    It runs as a lone user, and can make the image no larger. good: exit codes that are no failure. Raises DeployError.
    """
    with open(image, "r+b", buffering=0) as file, tempfile.TemporaryFile() as told:
        told.write(text.encode())
        told.seek(0)
        handle, size, user = file.fileno(), file.seek(0, os.SEEK_END), lone_user()
        owner = os.fstat(handle)
        if user is not None:
            os.fchown(handle, user, user)
        try:
            process = subprocess.Popen(
                [word.replace("{}", f"/proc/self/fd/{handle}") for word in command], stdin=told, pass_fds=[handle],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", env={"PATH": os.environ["PATH"]},
                start_new_session=True, preexec_fn=lambda: _limit(size), user=user, group=user,
                extra_groups=None if user is None else ())
            output = _output(command[0], process)
        except FileNotFoundError:
            raise DeployError(f"{command[0]}: not installed: make image-system") from None
        finally:
            if user is not None:
                os.fchown(handle, owner.st_uid, owner.st_gid)
    if process.returncode not in good:
        code = process.returncode
        ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        problem = f"{command[0]} failed ({ended}): the image is damaged, or there is no room"
        raise DeployError(f"{problem}: download it again")
    try:
        return output.decode()
    except UnicodeDecodeError:
        raise DeployError(f"{command[0]} found what is no text in it: take another image") from None


def _limit(size: int) -> None:
    """size: bytes of the largest file that it may write."""
    for what, most in ((resource.RLIMIT_FSIZE, size), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_NPROC, 0),
                       (resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, 1 << 30)):
        resource.setrlimit(what, (most, most))


def _output(program: str, process: subprocess.Popen[bytes]) -> bytes:
    """All that it says, when it has ended. Raises DeployError when that is too much."""
    assert process.stdout is not None
    watchdog = threading.Timer(SECONDS, process.kill)
    watchdog.start()
    try:
        with process.stdout:
            output = process.stdout.read(LARGEST_OUTPUT + 1)
        if len(output) > LARGEST_OUTPUT:
            raise DeployError(f"{program} found more than {LARGEST_OUTPUT} bytes in it: take another image")
        process.wait()
        return output
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        watchdog.cancel()


def partitions(image: Path) -> list[Partition]:
    """Raises DeployError when there is no table of them, or one that makes no sense."""
    try:
        table = json.loads(run_on(image, "sfdisk", "--json", "{}"))["partitiontable"]
        found = [Partition(number, one["start"] * SECTOR, one["size"] * SECTOR)
                 for number, one in enumerate(table["partitions"], 1)]
    except (DeployError, ValueError, KeyError) as error:
        raise DeployError(f"{image}: no disk image with partitions ({error}): give an unpacked .img") from None
    end = SECTOR  # of the table, and then of the partition before
    for one in sorted(found, key=lambda one: one.start):
        if one.start < end or one.size <= 0:
            raise DeployError(f"{image}: partition {one.number} has no place of its own: download the image again")
        end = one.start + one.size
    if end > image.stat().st_size:
        raise DeployError(f"{image}: ends before its last partition does: download the image again")
    return found


@contextmanager
def loop_device(image: Path, partition: Partition) -> Iterator[Path]:
    """A block device of a partition."""
    place = f"--offset={partition.start}", f"--sizelimit={partition.size}"
    device = Path(run("losetup", "--find", "--show", *place, image).strip())
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


def check(device: Path) -> None:
    """Mend what is safe to mend in an ext4, as a boot does. Raises DeployError when there is more."""
    run_on(device, "e2fsck", "-f", "-p", "{}", good=(0, 1))


@contextmanager
def mounted(image: Path, partition: Partition, *options: str, kind: str = "ext4") -> Iterator[Path]:
    """Mount a partition; yields the folder of its files, and unmounts it at the end. Raises DeployError."""
    if os.geteuid() != 0:
        raise DeployError("an image is mounted to put files into it, which only root may: put sudo before make")
    folder = Path(tempfile.mkdtemp(prefix="earshot-"))
    try:
        place = f"{MOUNT},offset={partition.start},sizelimit={partition.size}"
        run("mount", "-t", kind, "-o", ",".join((place, *options)), image, folder)
        try:
            yield folder
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise DeployError(f"{image}: a link stands in the way to {error.filename}: take another image") from None
        finally:
            run("umount", folder)
    finally:
        folder.rmdir()


def fat_read(image: Path, partition: Partition, name: str) -> str | None:
    """A text file in the top folder of a FAT partition, None when it is not there. Needs neither root nor a mount."""
    drive = f"{{}}@@{partition.start}"
    names = run_on(image, "mdir", "-b", "-i", drive, "::").splitlines()
    return run_on(image, "mtype", "-i", drive, f"::{name}") if f"::/{name}" in names else None


def fat_write(image: Path, partition: Partition, name: str, text: str) -> None:
    """Write a text file to the top folder of a FAT partition."""
    run_on(image, "mcopy", "-o", "-i", f"{{}}@@{partition.start}", "-", f"::{name}", text=text)


def make_room(image: Path, partition: Partition, needed: int) -> Partition:
    """Grow the last partition, of ext4, and its image, unless `needed` bytes are free → the partition."""
    with mounted(image, partition, "ro") as folder:
        missing = needed - shutil.disk_usage(folder).free
    if missing <= 0:
        return partition
    if partition.start != max(one.start for one in partitions(image)):
        raise DeployError(f"{image}: its root partition is full and not the last one: take Raspberry Pi OS Lite")
    os.truncate(image, image.stat().st_size + (missing + (64 << 20)) // SECTOR * SECTOR)
    run_on(image, "sfdisk", "--quiet", "-N", str(partition.number), "{}", text=", +\n")
    grown = partitions(image)[partition.number - 1]
    with loop_device(image, grown) as device:
        check(device)
        run_on(device, "resize2fs", "{}")
    return grown
