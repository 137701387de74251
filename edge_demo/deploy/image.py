"""A bootable arm64 Debian that listens: for boards with standard boot (EFI: U-Boot, EDK2), and for `make test-image`.

    make image                                              # dist/image/earshot.img, with dist/happy-ensemble
    sudo python -m edge_demo.deploy.image dist/happy-ensemble --config earshot.toml --out earshot.img

Built from Debian's packages with mmdebstrap, under emulation, which is slow; the base system without Earshot is cached
in dist/image. Write it to a card with `make flash IMAGE=… DEVICE=…`, which adds host name, user and key. Its serial
console prints the detections. Without a user nobody can log in.

Exit codes: 0 done; 2 a mistake to be fixed, and nothing half-made is left.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import uuid
from pathlib import Path

from edge_demo.deploy import arm64, flash, initramfs, native
from edge_demo.deploy.command import ROOT, DeployError, add_bundles, need, run
from edge_demo.deploy.install import InstallError

FOLDER = ROOT / "dist" / "image"
SUITE, PYTHON = "trixie", "3.13"
MIRROR, SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
PACKAGES = (
    "linux-image-arm64", "systemd-sysv", "udev", "dbus", "systemd-boot", "systemd-timesyncd", "systemd-resolved",
    "e2fsprogs", "dosfstools", "busybox-static", "kmod", "netbase", "python3", "alsa-utils", "openssh-server", "rsync",
    "sudo", "cloud-init", "cloud-guest-utils",
)
SIZE, FIRMWARE_START, FIRMWARE_SIZE = 3 << 30, 1 << 20, 256 << 20  # bytes
ROOT_START = FIRMWARE_START + FIRMWARE_SIZE
ROOT_SIZE = SIZE - ROOT_START - (1 << 20)  # the second copy of the table stands at the end
FIRMWARE_UUID = "EA45-0001"
# FAT has no modes, and `make flash` writes secrets there for the first boot: mounted for root alone.
FSTAB = f"""UUID={{root}} / ext4 noatime 0 1
UUID={FIRMWARE_UUID} /boot/firmware vfat noatime,flush,nofail,umask=0077 0 2
"""

FILES = {
    "etc/hostname": "earshot\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 earshot\n::1 localhost ip6-localhost ip6-loopback\n",
    "etc/machine-id": "",  # made at the first boot
    "etc/systemd/network/20-wired.network": "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n",
    # `make flash` writes cloud-init's files, and removes the second of these two.
    "etc/cloud/cloud.cfg.d/99-earshot.cfg": "datasource_list: [NoCloud, None]\n"
    "datasource: {NoCloud: {seedfrom: 'file:///boot/firmware/'}}\nnetwork: {config: disabled}\n",
    "etc/cloud/cloud-init.disabled": "",
    "etc/systemd/system/earshot.service.d/console.conf": "[Service]\nStandardOutput=journal+console\n",
    # For kernels that are installed later.
    "etc/kernel/install.conf": "layout=bls\nBOOT_ROOT=/boot/firmware\n",
    "etc/kernel/entry-token": "debian\n",
}
ENABLED = {  # links that `systemctl enable` would make
    "multi-user.target.wants/systemd-networkd.service": "systemd-networkd.service",
    "sockets.target.wants/systemd-networkd.socket": "systemd-networkd.socket",
}


def base() -> Path:
    """The image without Earshot, from the cache unless its recipe changed."""
    recipe = b"".join(Path(file).read_bytes() for file in (__file__, initramfs.__file__, initramfs.SCRIPT))
    image = FOLDER / f"debian-{hashlib.sha256(recipe).hexdigest()[:12]}.img"
    if not image.exists():
        print("building Debian under emulation, once", flush=True)
        part = image.with_suffix(".part")
        part.unlink(missing_ok=True)
        system = debian()
        write_image(system, part)
        part.replace(image)
    return image


def debian() -> Path:
    """The system's files. Only the packages are cached: they take nearly all of the time."""
    system = FOLDER / f"root-{hashlib.sha256(repr((SUITE, PACKAGES)).encode()).hexdigest()[:12]}"
    if not system.is_dir():
        need("mmdebstrap", "qemu-aarch64-static")
        FOLDER.mkdir(parents=True, exist_ok=True)
        part = system.with_suffix(".part")
        if part.exists():
            run("rm", "-rf", "--one-file-system", part)
        excluded = (f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info"))
        process = subprocess.run(
            ["mmdebstrap", "--mode=root", "--variant=minbase", "--architectures=arm64", *excluded,
             f"--include={','.join(PACKAGES)}",
             *(f'--{hook}-hook={sys.executable} {native.__file__} {what} "$1"'
               for hook, what in (("essential", "divert"), ("customize", "restore"))),
             SUITE, part, f"deb {MIRROR} {SUITE} main",
             f"deb {MIRROR} {SUITE}-updates main", f"deb {SECURITY} {SUITE}-security main"])
        if process.returncode:
            raise DeployError("mmdebstrap failed: its output is above")
        run("depmod", "--basedir", part, kernel(part))
        run("systemd-hwdb", "--root", part, "--usr", "update")
        for folder in ("lib/python3", f"lib/python{PYTHON}"):
            arm64.compile_all(PYTHON, part / "usr" / folder, f"/usr/{folder}")
        part.replace(system)
    return system


def kernel(system: Path) -> str:
    return max(path.name for path in (system / "usr/lib/modules").iterdir())


def write_image(system: Path, image: Path) -> None:
    """A root folder → partitions, boot loader, kernel and file systems in a file."""
    root_uuid = str(uuid.uuid4())
    command_line = f"root=UUID={root_uuid} ro panic=10 loglevel=4\n"
    for name, text in {
        **FILES, "etc/kernel/cmdline": command_line,
        "etc/fstab": FSTAB.format(root=root_uuid),
    }.items():
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(text)
    (system / "boot/firmware").mkdir(exist_ok=True)
    for name, unit in ENABLED.items():
        path = system / "etc/systemd/system" / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(f"/usr/lib/systemd/system/{unit}")
    for key in (system / "etc/ssh").glob("ssh_host_*"):  # every device makes its own
        key.unlink()

    with open(image, "wb") as file:
        file.truncate(SIZE)
    run("sfdisk", "--quiet", image, text="label: gpt\n"
        f"start={FIRMWARE_START // 512}, size={FIRMWARE_SIZE // 512}, type=uefi, name=bootfs\n"
        f"start={ROOT_START // 512}, size={ROOT_SIZE // 512}, type=B921B045-1DF0-41C3-AF44-4C6F280D3FAE, name=rootfs\n")
    write_firmware(system, image, command_line)
    run("mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-U", root_uuid, "-d", system, "-E", f"offset={ROOT_START}",
        image, f"{ROOT_SIZE // 1024}k")


def write_firmware(system: Path, image: Path, command_line: str) -> None:
    """The EFI system partition, laid out as `bootctl install` and `kernel-install` do it."""
    version = kernel(system)
    initrd = image.with_suffix(".initrd")
    initramfs.build(system, version, initrd)
    entry = (f"title Debian\nversion {version}\nsort-key debian\noptions {command_line}"
             f"linux /debian/{version}/linux\ninitrd /debian/{version}/initrd.img-{version}\n")
    # Clusters of 1 KB: with larger ones there are too few for FAT32, which EFI and mtools reject.
    run("mkfs.vfat", "-F", "32", "-s", "2", "-n", "bootfs", "-i", FIRMWARE_UUID.replace("-", ""),
        f"--offset={FIRMWARE_START // 512}", image, str(FIRMWARE_SIZE // 1024))
    drive = f"{image}@@{FIRMWARE_START}"
    folders = ("EFI", "EFI/BOOT", "EFI/systemd", "loader", "loader/entries", "debian", f"debian/{version}")
    run("mmd", "-i", drive, *(f"::{folder}" for folder in folders))
    loader = system / "usr/lib/systemd/boot/efi/systemd-bootaa64.efi.signed"
    for source, place in ((loader, "EFI/BOOT/BOOTAA64.EFI"), (loader, "EFI/systemd/systemd-bootaa64.efi"),
                          (system / f"boot/vmlinuz-{version}", f"debian/{version}/linux"),
                          (initrd, f"debian/{version}/initrd.img-{version}")):
        run("mcopy", "-i", drive, source, f"::{place}")
    for text, place in (("timeout 0\n", "loader/loader.conf"), (entry, f"loader/entries/debian-{version}.conf")):
        run("mcopy", "-i", drive, "-", f"::{place}", text=text)
    initrd.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_bundles(parser)
    parser.add_argument("--config", metavar="FILE", type=Path, help="the device's earshot.toml")
    parser.add_argument("--out", metavar="FILE", type=Path, default=FOLDER / "earshot.img",
                        help="(default: dist/image/earshot.img)")
    options = parser.parse_args()
    part = options.out.with_name(f".{options.out.name}.part")
    try:
        if os.geteuid() != 0:
            raise DeployError("making files of other owners needs root: put sudo before make")
        image = base()
        options.out.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        part.touch(0o600)  # a configuration may hold secrets
        run("cp", "--sparse=always", image, part)
        flash.put(part, options.bundles, options.config, None)
        part.chmod(0o600 if options.config else 0o644)
        part.replace(options.out)
    except (DeployError, InstallError, OSError) as error:
        print(f"image: error: {error}", file=sys.stderr)
        return 2
    finally:
        part.unlink(missing_ok=True)
    print(f"{options.out}: {options.out.stat().st_size >> 20} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
