"""Systems and releases as small as they can be: what deploy, flash and image are tried on without arm64 or internet."""

import compileall
import os
import shutil
import subprocess
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest

from edge_demo.deploy import arm64, disk

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("sfdisk", "mkfs.vfat", "mke2fs", "mcopy", "losetup", "resize2fs", "systemd-sysusers", "openssl")
MISSING = [tool for tool in TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
needs_disks = pytest.mark.skipif(
    bool(MISSING) or os.geteuid() != 0 or not Path("/dev/loop-control").exists(),
    reason=f"disk images need {', '.join(MISSING) or 'root and loop devices'}: sudo make image-system")


def small_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Releases of this test have a small file in the place of 130 MB of packages."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "here.txt").write_text("packages\n")
    monkeypatch.setattr(arm64, "site", lambda python: site)
    monkeypatch.setattr(arm64, "compile_all", lambda python, folder, shown: compileall.compile_dir(
        folder, quiet=1, stripdir=folder, prependdir=shown, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH))
    monkeypatch.setattr("edge_demo.deploy.payload.RELEASES", tmp_path / "releases")
    return site


def small_root(folder: Path, python: str = "3.13") -> Path:
    """What the tools look for in a Raspberry Pi OS, and nothing to run."""
    for name in ("usr/bin", "usr/lib/aarch64-linux-gnu", "usr/sbin", "etc/systemd/system", "boot/firmware", "var/lib"):
        (folder / name).mkdir(parents=True)
    (folder / "usr/bin/python3").symlink_to(f"python{python}")
    for link, target in {
        "bin": "usr/bin",
        "lib": "usr/lib",
        "sbin": "usr/sbin",
        "var/run": "/run",
        "etc/os-release": "../usr/lib/os-release",
    }.items():
        (folder / link).symlink_to(target)
    (folder / "usr/lib/os-release").write_text("ID=debian\n")
    (folder / "usr/sbin/NetworkManager").touch()
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\npi:x:1000:1000:,,,:/home/pi:/bin/bash\n")
    (folder / "etc/fstab").write_text("PARTUUID=1-01  /boot/firmware  vfat    defaults          0       2\n"
                                      "PARTUUID=1-02  /               ext4    defaults,noatime  0       1\n")
    (folder / "etc/group").write_text("root:x:0:\naudio:x:29:pi\npi:x:1000:\n")
    return folder


def pi_image(image: Path, root: Path, boot: dict[str, str], megabytes: int) -> Path:
    """Two partitions as Raspberry Pi OS has them: MBR, FAT `bootfs` with these files, ext4 `rootfs` with that root."""
    start, size = 4 << 20, 64 << 20
    with open(image, "wb") as file:
        file.truncate(start + size + (megabytes << 20))
    disk.run("sfdisk", "--quiet", image, text=f"label: dos\nstart={start // 512}, size={size // 512}, type=c\n"
                                              f"start={(start + size) // 512}, type=83\n")
    disk.run("mkfs.vfat", "-F", "32", "-n", "bootfs", f"--offset={start // 512}", image, str(size // 1024))
    for name, text in boot.items():
        disk.run("mcopy", "-i", f"{image}@@{start}", "-", f"::{name}", text=text)
    disk.run("mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-d", root, "-E", f"offset={start + size}", image,
             f"{megabytes << 10}k")
    return image


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f anna"
SETTINGS = """
hostname = "kitchen"
[user]
name = "anna"
password = "correct horse"
ssh-key = "KEY"
[wifi]
name = 'home "5" GHz'
password = "battery staple"
country = "DE"
[keyboard]
layout = "de"
""".replace("KEY", KEY)
BOOT = {"config.txt": "[all]\n",
        "cmdline.txt": "console=serial0,115200 console=tty1 root=PARTUUID=1-02 rootfstype=ext4 fsck.repair=yes "
                       "rootwait\n"}


def chroot(root: Path, *command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """With a host name of its own: cloud-init sets it, and this machine's would not be found in its /etc/hosts."""
    return subprocess.run(["unshare", "--uts", "chroot", root, *command], input=text, text=True, capture_output=True,
                          env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"})
