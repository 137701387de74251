"""The image of `make image`: its initramfs, shell, and (slow) the image itself, mounted and looked through."""

import os
import shutil
import subprocess

import pytest
from device import ROOT, needs_disks
from test_firstrun import MISSING

from edge_demo.deploy import disk, flash, image, initramfs, install, payload


def test_shell_is_little_and_clean():
    """All shell there is, here and in .ci."""
    rooms = ("training", "export", "runtime", "edge_demo", "tests")
    scripts = [*(path for room in rooms for path in (ROOT / room).rglob("*.sh")), ROOT / ".ci/run"]
    assert [path.name for path in scripts] == ["initramfs.sh", "run"]
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: apt-get install shellcheck")
    process = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


def test_drivers_come_with_what_they_need_and_without_graphics(tmp_path):
    folder = tmp_path / "usr/lib/modules/6.1"
    folder.mkdir(parents=True)
    (folder / "modules.dep").write_text(
        "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz\n"
        "kernel/fs/jbd2/jbd2.ko.xz:\nkernel/lib/crc16.ko.xz:\n"
        "kernel/drivers/block/virtio_blk.ko.xz:\nkernel/drivers/block/nbd.ko.xz:\n"
        "kernel/drivers/phy/dp.ko.xz: kernel/drivers/gpu/drm/drm.ko.xz\nkernel/drivers/gpu/drm/drm.ko.xz:\n")
    assert initramfs.modules(tmp_path, "6.1") == [
        "kernel/drivers/block/virtio_blk.ko.xz", "kernel/fs/ext4/ext4.ko.xz", "kernel/fs/jbd2/jbd2.ko.xz",
        "kernel/lib/crc16.ko.xz"]


@pytest.mark.slow
@needs_disks
@pytest.mark.skipif(bool(MISSING), reason=f"an image needs {', '.join(MISSING)}: sudo make image-system")
def test_the_image_holds_the_payload_and_boots_by_its_own_files(tmp_path, shipped):
    out = tmp_path / "earshot.img"
    disk.run("cp", "--sparse=always", image.base(), out)
    flash.put(out, [shipped], None, None)
    firmware, root = disk.partitions(out)
    with disk.mounted(out, root, "ro") as system:
        release = payload.build("3.13", [shipped])
        assert payload.differences(system, release) == []
        wanted = (system / install.WANTED)
        assert wanted.is_symlink() and os.readlink(wanted) == f"/{install.UNIT}"
        assert (system / "etc/machine-id").read_text() == "" and not list((system / "etc/ssh").glob("ssh_host_*"))
        version = image.kernel(system)
        assert not list((system / "usr/bin").glob("*.slow"))  # what was put aside for building is back
        elf = (system / "usr/bin/dash").read_bytes()[18:20]
        assert elf == b"\xb7\x00"  # EM_AARCH64
    drive = f"{out}@@{firmware.start}"
    entry = disk.run("mtype", "-i", drive, f"::loader/entries/debian-{version}.conf")
    for line in entry.splitlines():
        if line.startswith(("linux", "initrd")):
            assert disk.run("mdir", "-b", "-i", drive, f"::{line.split()[1]}")
    uuid = disk.run("blkid", "-p", "-O", str(root.start), "-s", "UUID", "-o", "value", out).strip()
    assert f"root=UUID={uuid}" in entry
    assert disk.run("mdir", "-b", "-i", drive, "::EFI/BOOT/BOOTAA64.EFI")
