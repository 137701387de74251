"""OS images made by somebody who means harm to the desk that puts Earshot onto them, as root.

Each is refused, or put in order, or kept to itself; and does its harm when what keeps it off is taken out.
"""

import contextlib
import lzma
import os
import re
import shutil
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from device import BOOT, needs_disks, pi_image, small_root
from weaken import weaken

from edge_demo.deploy import disk, first_boot, flash, install, payload
from edge_demo.deploy.command import DeployError
from edge_demo.deploy.install import InstallError

FOLLOWS = (",nosymfollow", "")
FIRMWARE = 4 << 20  # bytes before the FAT partition of `pi_image`


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of this desk's, where a system keeps the same as the image's."""
    return small_root(tmp_path / "desk")


@pytest.fixture
def flashed(tmp_path: Path, toy: Path, small_site: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """flashed(root, changes …, boot=…, spoil=…): the image after Earshot was put onto it, with `disk` so changed.

    spoil: what is done to the image before.
    """

    def make(root: Path, *changes: tuple[str, str], spoil: Callable[[Path], object] = lambda image: None) -> Path:
        path = tmp_path / f"{len(list(tmp_path.glob('*.img')))}.img"
        image = pi_image(path, root, BOOT, 24)
        spoil(image)
        module = weaken("edge_demo/deploy/disk.py", *changes) if changes else disk
        for user in (flash, first_boot):
            monkeypatch.setattr(user, "disk", module)
        flash.put(image, [toy], None, {"hostname": "kitchen"})
        return image

    return make


def content(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Owner, mode and content of everything in it."""
    return {str(path.relative_to(folder)): (path.lstat().st_uid, path.lstat().st_mode,
                                            path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*")}


# Links


@needs_disks
@pytest.mark.parametrize("name", ["etc", "opt", "var/lib", "etc/systemd/system", "usr/lib/sysusers.d", "etc/fstab",
                                  "opt/earshot/releases", "var/lib/earshot"])
def test_a_link_to_the_desk_is_not_followed(tmp_path, outside, flashed, name):
    for folder in (outside / "opt/earshot/releases", outside / "usr/lib/sysusers.d", outside / "var/lib/earshot"):
        folder.mkdir(parents=True)
    root = small_root(tmp_path / "root")
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(outside / name)
    before = content(outside)
    with pytest.raises((DeployError, InstallError, OSError)) as caught:
        flashed(root)
    assert content(outside) == before
    assert str(caught.value).isprintable()
    if name == "etc/fstab":  # replaced, and not read, is what becomes of it in any case
        return
    flashed(root, FOLLOWS)
    assert content(outside) != before


# What the image has in Earshot's places


@needs_disks
def test_a_release_that_the_image_brings_is_not_run(tmp_path, toy, small_site, flashed):
    """Its name follows from what is in it, so whoever makes an image knows it."""
    release = payload.build("3.13", [toy])
    root = small_root(tmp_path / "root")
    place = root / "opt/earshot/releases" / release.name
    place.mkdir(parents=True)
    (place / "install.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    image = flashed(root)
    assert not (tmp_path / "owned").exists()
    with disk.mounted(image, disk.partitions(image)[1], "ro") as system:
        assert payload.differences(system, release) == []
    weak = weaken("edge_demo/deploy/payload.py", ('    run("rm", "-rf", "--one-file-system", place)\n', ""), (
        '    run("cp", "-r", "--no-dereference", "--preserve=mode", release, place)\n', ""), (
        "    install.install(root, place, config)", '    run("python3", place / "install.py")'))
    weak.into(root, release, None)
    assert (tmp_path / "owned").exists()


def ends(act: Callable[[], Any], seconds: float = 1) -> bool:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def nonsense(path: Path) -> None:
    path.write_bytes(b"\xff\xfe:\n\nearshot:x:" + b"9" * 5000 + b":1:::\n:::::::\n")


def endless(path: Path) -> None:
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("name", ["etc/passwd", "etc/group"])
@pytest.mark.parametrize("spoil", [pipe, nonsense, endless])
def test_users_that_are_none(tmp_path, name, spoil):
    root = small_root(tmp_path / "root")
    spoil(root / name)
    told = {"user": {"name": "anna"}}

    def check() -> None:
        with pytest.raises(InstallError, match=f"{name}: no plain file"):
            flash.check_user(root, told)

    if spoil == nonsense:
        flash.check_user(root, told)
    else:
        assert ends(check)
    if name == "etc/passwd":
        with pytest.raises(InstallError):
            install.account(root)
    weak = weaken("edge_demo/deploy/settings.py", ("install.text_of(root / file)", "(root / file).read_text()"))
    if spoil == pipe:
        assert not ends(lambda: weak.check_user(root, told))
        (root / name).open("wb").close()  # sets it free
    elif spoil == nonsense:
        with pytest.raises(UnicodeDecodeError):
            weak.check_user(root, told)


# File systems


@needs_disks
def test_an_image_does_not_ask_for_a_stop_of_the_kernel(tmp_path):
    image = pi_image(tmp_path / "os.img", small_root(tmp_path / "root"), BOOT, 24)
    root = disk.partitions(image)[1]
    with disk.loop_device(image, root) as device:
        disk.run("tune2fs", "-e", "panic", device)

    def wish(module: Any) -> str:
        with module.mounted(image, root) as folder:
            device = Path(disk.run("findmnt", "-no", "SOURCE", folder).strip())
            options = Path("/proc/fs/ext4", device.name, "options").read_text()
            return options.split("errors=")[1].splitlines()[0]

    assert wish(disk) == "remount-ro"
    assert wish(weaken("edge_demo/deploy/disk.py", (",errors=remount-ro", ""))) == "panic"


@needs_disks
def test_blocks_that_are_free_and_used(tmp_path, flashed):
    """The file system gives the place of a file away: what is written there later is in both."""
    root = small_root(tmp_path / "root")
    ballast = os.urandom(19 << 20)
    (root / "ballast").write_bytes(ballast)

    def spoil(image: Path) -> None:
        with disk.loop_device(image, disk.partitions(image)[1]) as device:
            blocks = list(map(int, disk.run("debugfs", "-R", "blocks ballast", device).split()))
            commands = [f"freeb {block}" for block in blocks]
            for group in re.findall(r"^Group \d+:.*?(?=^Group|\Z)", disk.run("dumpe2fs", device), re.M | re.S):
                number, first, last = map(int, re.findall(r"\d+", group)[:3])
                free = int(re.search(r"(\d+) free blocks", group)[1]) + sum(first <= one <= last for one in blocks)
                commands += [f"set_bg {number} free_blocks_count {free}", f"set_bg {number} checksum calc"]
            disk.run("debugfs", "-w", "-f", "-", device, text="\n".join(commands))

    def is_whole(image: Path) -> bool:
        with disk.mounted(image, disk.partitions(image)[1], "ro") as system:
            try:
                return (system / "ballast").read_bytes() == ballast
            except OSError:  # what tells where its blocks are is overwritten too
                return False

    assert is_whole(flashed(root, spoil=spoil))
    weak = ('    run_on(device, "e2fsck", "-f", "-p", "{}", good=(0, 1))', "    pass")
    assert not is_whole(flashed(root, weak, spoil=spoil))


@needs_disks
@pytest.mark.parametrize(("offset", "value"), [(4, 1 << 31), (24, 30), (32, 0), (56, 0), (88, 7)],
                         ids=["blocks", "size of blocks", "blocks of a group", "no ext4", "size of inodes"])
def test_an_ext4_that_makes_no_sense_is_not_mounted(tmp_path, flashed, monkeypatch, offset, value):
    def spoil(image: Path) -> None:
        with open(image, "r+b") as file:
            file.seek(disk.partitions(image)[1].start + 1024 + offset)
            file.write(struct.pack("<H" if offset > 50 else "<I", value))

    monkeypatch.setattr(disk, "mounted", lambda *_: pytest.fail("it was mounted"))
    with pytest.raises(DeployError, match="e2fsck failed .*: the image is damaged"):
        flashed(small_root(tmp_path / "root"), spoil=spoil)


# Tables of partitions


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return pi_image(tmp_path / "os.img", small_root(tmp_path / "root"), BOOT, 8)


@needs_disks
@pytest.mark.parametrize(("entry", "start", "sectors", "message"), [
    (1, 139264, 1 << 20, "ends before its last partition"), (1, 8192 + 2048, 2048, "no place of its own"),
    (1, 0, 2048, "no place of its own"), (0, 1 << 31, 1 << 31, "ends before its last partition"),
], ids=["beyond the end", "within another", "the table", "far beyond"])
def test_tables_that_lie(card, entry, start, sectors, message):
    with open(card, "r+b") as file:
        file.seek(446 + 16 * entry + 8)
        file.write(struct.pack("<II", start, sectors))
    with pytest.raises(DeployError, match=message):
        disk.partitions(card)
    weak = weaken("edge_demo/deploy/disk.py", ("if one.start < end or one.size <= 0:", "if False:"),
                  ("if end > image.stat().st_size:", "if False:"))
    assert disk.Partition(entry + 1, start * 512, sectors * 512) in weak.partitions(card)


@needs_disks
@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_a_table_of_nothing(tmp_path, label):
    with open(tmp_path / "os.img", "wb") as file:
        file.truncate(8 << 20)
    disk.run("sfdisk", "--quiet", tmp_path / "os.img", text=f"label: {label}\n")
    with pytest.raises(DeployError, match="0 partitions|no disk image with partitions"):
        flash.put(tmp_path / "os.img", [], None, None)


# FAT


def write(image: Path, place: int, form: str, value: int) -> None:
    with open(image, "r+b") as file:
        file.seek(place)
        file.write(struct.pack(form, value))


@needs_disks
def test_a_fat_that_claims_to_be_large_does_not_become_so(card):
    """Its clusters lie far behind the image's end, and files would be written there."""
    write(card, FIRMWARE + 13, "B", 128)  # sectors of a cluster
    write(card, FIRMWARE + 32, "<I", 0xFFFFFFFF)  # sectors
    write(card, FIRMWARE + 36, "<I", 1 << 18)  # sectors of a table
    firmware, size = disk.Partition(1, FIRMWARE, 64 << 20), card.stat().st_size
    with pytest.raises(DeployError, match=r"mcopy failed \(SIGXFSZ\)"):
        disk.fat_write(card, firmware, "user-data", "hello")
    assert card.stat().st_size == size
    weak = weaken("edge_demo/deploy/disk.py", ("(resource.RLIMIT_FSIZE, size), ", ""))
    weak.fat_write(card, firmware, "user-data", "hello")
    assert card.stat().st_size > size + (100 << 20)


@needs_disks
@pytest.mark.parametrize(("place", "form", "value"), [
    (11, "<H", 0), (11, "<H", 32768), (13, "B", 0), (14, "<H", 0xFFFF), (16, "B", 255), (36, "<I", 0),
    (36, "<I", 1 << 30), (36, "<I", 0xFFFFFFFF), (44, "<I", 0x0FFFFFFF)])
def test_a_fat_that_makes_no_sense(card, place, form, value):
    firmware, size = disk.partitions(card)[0], card.stat().st_size
    write(card, FIRMWARE + place, form, value)
    began = time.monotonic()
    try:
        assert disk.fat_read(card, firmware, "cmdline.txt") is None
    except DeployError as error:
        assert "failed" in str(error)
    with pytest.raises(DeployError, match="failed"):
        disk.fat_write(card, firmware, "user-data", "hello")
    assert time.monotonic() - began < 30 and card.stat().st_size == size and card.stat().st_uid == 0


@needs_disks
@pytest.mark.parametrize(("text", "message"), [
    (b"a" * (2 << 20), "more than 1048576 bytes"), (b"\xff\xfe root=1", "no text")])
def test_a_command_line_that_is_none(card, tmp_path, text, message):
    (tmp_path / "text").write_bytes(text)
    firmware = disk.partitions(card)[0]
    disk.run("mcopy", "-o", "-i", f"{card}@@{FIRMWARE}", tmp_path / "text", "::cmdline.txt")
    with pytest.raises(DeployError, match=message):
        disk.fat_read(card, firmware, "cmdline.txt")
    if text[0] == ord("a"):
        weak = weaken("edge_demo/deploy/disk.py", ("LARGEST_OUTPUT = 1 << 20", "LARGEST_OUTPUT = 1 << 30"))
        assert len(weak.fat_read(card, firmware, "cmdline.txt")) == 2 << 20


# A program that an image has taken over: one of sh, with nothing but its own commands, stands in the place of mtools

LIMITS = 'while read line; do case $line in "{0} "*unlimited*) echo of root; esac; done < /proc/self/limits'
SPIES = {
    "reads": ("read line < {0} && echo $line",
              "user=user, group=user,\n                extra_groups=None if user is None else ()"),
    "starts others": ("(exec sleep 0) && echo of root", "(resource.RLIMIT_NPROC, 0),"),
    "takes memory": (LIMITS.format("Max address space"), ", (resource.RLIMIT_AS, 1 << 30)"),
    "takes the processor": (LIMITS.format("Max cpu time"), "(resource.RLIMIT_CPU, SECONDS), "),
    "speaks to the terminal": ("read line < /proc/self/stat; set -- ${line##*) }; [ $4 = {1} ] && echo of root",
                               "start_new_session=True, "),
}


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The program mdir, in a folder that other users may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    (folder / "image").write_bytes(bytes(512))
    (folder / "mdir").touch(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    yield folder / "mdir"
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user: run it with sudo")
@pytest.mark.parametrize("spy", SPIES)
def test_a_program_that_got_further_than_it_should(program, spy):
    act, mend = SPIES[spy]
    secret = program.with_name("secret")
    secret.touch(0o600)
    secret.write_text("of root\n")
    program.write_text(f"#!/bin/sh\n{act.replace('{0}', str(secret)).replace('{1}', str(os.getsid(0)))}\nexit 0\n")
    for module, is_done in ((disk, False), (weaken("edge_demo/deploy/disk.py", (mend, "")), True)):
        try:
            said = module.run_on(program.with_name("image"), "mdir", "{}")
        except DeployError as error:
            said = str(error)
        assert ("of root" in said) == is_done


def test_a_program_that_waits_without_end(program):
    program.write_text("#!/bin/sh\nexec sleep 6\n")

    def wait(*changes: tuple[str, str]) -> None:
        module = weaken("edge_demo/deploy/disk.py", ("SECONDS = 600", "SECONDS = 1"), *changes)
        with contextlib.suppress(DeployError):
            module.run_on(program.with_name("image"), "mdir", "{}")

    assert ends(wait, 4)
    assert not ends(lambda: wait(("    watchdog.start()\n", "")), 4)


# Packed images


def unpacked(flash_module: Any, tmp_path: Path, content: bytes, name: str = "os.img.xz") -> bytes:
    (tmp_path / name).write_bytes(content)
    flash_module.unpack(tmp_path / name, tmp_path / "out.img")
    return (tmp_path / "out.img").read_bytes()


def test_what_xz_and_its_like_pack_is_unpacked(tmp_path):
    text = os.urandom(3 << 20) + bytes(9 << 20) + os.urandom(5)
    one, two = lzma.compress(text, preset=0), lzma.compress(b"more")
    assert unpacked(flash, tmp_path, one) == text
    assert (tmp_path / "out.img").stat().st_blocks * 512 < 8 << 20  # zeros take no room
    assert unpacked(flash, tmp_path, one + bytes(8) + two + bytes(4)) == text + b"more"
    assert unpacked(flash, tmp_path, text, "os.img") == text
    assert unpacked(flash, tmp_path, lzma.compress(bytes(5 << 20), preset=0)) == bytes(5 << 20)


@pytest.mark.parametrize("content", [b"", b"no xz", lzma.compress(os.urandom(9000))[:5000],
                                     lzma.compress(b"one") + b"more"], ids=["nothing", "no xz", "half", "more"])
def test_what_is_not_whole(tmp_path, content):
    if content:
        with pytest.raises(DeployError, match="cannot be unpacked"):
            unpacked(flash, tmp_path, content)
    else:
        assert unpacked(flash, tmp_path, content) == b""  # in which no partitions are found


@pytest.mark.parametrize(("limit", "most", "free", "message"), [
    ("target.tell() > LARGEST_IMAGE", 16 << 20, 1 << 40, "is larger than 0 GB"),
    ("room < 0", 1 << 40, 16 << 20, "than what .* has room for")])
def test_bombs(tmp_path, monkeypatch, limit, most, free, message):
    content = lzma.compress(b"a" * (24 << 20))  # 4 KB
    weak = weaken("edge_demo/deploy/flash.py", (limit, "False"))
    for module in (flash, weak):
        monkeypatch.setattr(module, "LARGEST_IMAGE", most)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free))
    with pytest.raises(DeployError, match=message):
        unpacked(flash, tmp_path, content)
    assert (tmp_path / "out.img").stat().st_size <= 20 << 20
    assert len(unpacked(weak, tmp_path, content)) == 24 << 20


def test_a_dictionary_of_four_gigabytes(tmp_path):
    """A byte of the header says how much memory whoever unpacks it takes at once."""
    content = bytearray(lzma.compress(b"image", check=lzma.CHECK_CRC32))
    header = 12, 12 + (content[12] + 1) * 4  # of the first block
    place = content.index(b"\x21\x01", *header) + 2  # LZMA2, with one byte: the size of its dictionary
    content[place] = 40
    content[header[1] - 4 : header[1]] = zlib.crc32(content[header[0] : header[1] - 4]).to_bytes(4, "little")

    def peak() -> int:
        return int(Path("/proc/self/status").read_text().split("VmPeak:")[1].split()[0]) >> 20  # GB

    before = peak()
    with pytest.raises(DeployError, match="cannot be unpacked .*[Mm]emory"):
        unpacked(flash, tmp_path, bytes(content))
    assert peak() - before < 1
    weak = weaken("edge_demo/deploy/flash.py", (", UNPACK_MEMORY)", ")"))
    assert unpacked(weak, tmp_path, bytes(content)) == b"image"
    assert peak() - before >= 3


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", ".", "nothing", "pipe"])
def test_what_is_no_file(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DeployError, match="is no file"):
        flash.unpack(tmp_path / name, tmp_path / "out.img")
    assert not (tmp_path / "out.img").exists()
