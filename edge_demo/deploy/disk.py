"""Disk images in files: their partitions, mounted one at a time. Mounting needs root."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from edge_demo.deploy.command import DeployError, run

SECTOR = 512  # bytes
CHUNK = 4 << 20  # bytes that are copied at once


class Partition(NamedTuple):
    """A part of an image, in bytes. number: counted from 1."""

    number: int
    start: int
    size: int


def partitions(image: Path) -> list[Partition]:
    """Raises DeployError when there is no table of them."""
    try:
        table = json.loads(run("sfdisk", "--json", image))["partitiontable"]
    except DeployError as error:
        raise DeployError(f"{image}: no disk image with partitions ({error}): give an unpacked .img") from None
    return [Partition(number, one["start"] * SECTOR, one["size"] * SECTOR)
            for number, one in enumerate(table["partitions"], 1)]


@contextmanager
def mounted(image: Path, partition: Partition, *options: str) -> Iterator[Path]:
    """Mount a partition; yields the folder of its files, and unmounts it at the end."""
    if os.geteuid() != 0:
        raise DeployError("an image is mounted to put files into it, which only root may: put sudo before make")
    folder = Path(tempfile.mkdtemp(prefix="earshot-"))
    try:
        place = f"loop,offset={partition.start},sizelimit={partition.size}"
        run("mount", "-o", ",".join((place, *options)), image, folder)
        try:
            yield folder
        finally:
            run("umount", folder)
    finally:
        folder.rmdir()


def fat_read(image: Path, partition: Partition, name: str) -> str | None:
    """A text file in the top folder of a FAT partition, None when it is not there. Needs neither root nor a mount."""
    drive = f"{image}@@{partition.start}"
    names = run("mdir", "-b", "-i", drive, "::").splitlines()
    return run("mtype", "-i", drive, f"::{name}") if f"::/{name}" in names else None


def fat_write(image: Path, partition: Partition, name: str, text: str) -> None:
    """Write a text file to the top folder of a FAT partition."""
    run("mcopy", "-o", "-i", f"{image}@@{partition.start}", "-", f"::{name}", text=text)


def make_room(image: Path, partition: Partition, needed: int) -> Partition:
    """Grow the last partition, of ext4, and its image, unless `needed` bytes are free → the partition."""
    with mounted(image, partition, "ro") as folder:
        missing = needed - shutil.disk_usage(folder).free
    if missing <= 0:
        return partition
    if partition.start != max(one.start for one in partitions(image)):
        raise DeployError(f"{image}: its root partition is full and not the last one: take Raspberry Pi OS Lite")
    os.truncate(image, image.stat().st_size + (missing + (64 << 20)) // SECTOR * SECTOR)
    run("sfdisk", "--quiet", "-N", str(partition.number), image, text=", +\n")
    grown = partitions(image)[partition.number - 1]
    with loop_device(image, grown) as loop:
        run("e2fsck", "-f", "-p", loop)
        run("resize2fs", loop)
    return grown


@contextmanager
def loop_device(image: Path, partition: Partition) -> Iterator[str]:
    """A block device of a partition."""
    bounds = f"--offset={partition.start}", f"--sizelimit={partition.size}"
    loop = run("losetup", "--find", "--show", *bounds, image).strip()
    try:
        yield loop
    finally:
        run("losetup", "--detach", loop)
