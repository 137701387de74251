"""A first initramfs for the image of `make image`, built without running any of its programs.

Debian's own takes twenty minutes to build under emulation. This one holds busybox, the drivers that a board may need to
reach its disk, and `initramfs.sh`. A kernel that is installed later on the device gets Debian's own.
"""

import lzma
import shutil
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).with_name("initramfs.sh")
# Below kernel/: file systems, buses of disks, and the drivers of boards between those and the processor.
DRIVERS = (
    "crypto/crc32c_generic", "fs/ext4",
    "drivers/ata", "drivers/block/virtio_blk", "drivers/clk", "drivers/gpio", "drivers/i2c/busses",
    "drivers/mailbox", "drivers/mfd", "drivers/mmc", "drivers/nvme/host", "drivers/pci/controller", "drivers/phy",
    "drivers/pinctrl", "drivers/pmdomain", "drivers/pwm", "drivers/regulator", "drivers/reset", "drivers/scsi/sd_mod",
    "drivers/soc", "drivers/usb/chipidea", "drivers/usb/dwc2", "drivers/usb/dwc3", "drivers/usb/host",
    "drivers/usb/storage", "drivers/virtio",
)
LATE = ("kernel/drivers/gpu", "kernel/sound", "kernel/net", "kernel/drivers/net", "kernel/drivers/media")


def modules(system: Path, version: str) -> list[str]:
    """Paths below lib/modules/VERSION of DRIVERS and what they depend on, without those that depend on LATE."""
    lines = (system / "usr/lib/modules" / version / "modules.dep").read_text().splitlines()
    needs = {path: rest.split() for path, rest in (line.split(":", 1) for line in lines)}  # transitively, by depmod
    chosen: set[str] = set()
    for path, others in needs.items():
        inside = any(path.startswith(f"kernel/{place}/") or path.startswith(f"kernel/{place}.") for place in DRIVERS)
        if inside and not any(other.startswith(LATE) for other in others):
            chosen |= {path, *others}
    return sorted(chosen)


def build(system: Path, version: str, out: Path) -> None:
    """Write `out` for a kernel that is unpacked in `system`. Uses a folder beside `out`."""
    work = out.with_name(f"{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    for name in ("bin", "proc", "sys", "dev", "sysroot", "lib"):
        (work / name).mkdir(parents=True)
    (work / "sbin").symlink_to("bin")  # where the kernel looks for modprobe
    shutil.copy(system / "usr/bin/busybox", work / "bin/busybox")
    shutil.copy(SCRIPT, work / "init")
    (work / "init").chmod(0o755)
    copy_modules(system / "usr/lib/modules" / version, work / "lib/modules" / version, modules(system, version))
    subprocess.run(["depmod", "--basedir", work, version], check=True)
    names = "\0".join([".", *(str(path.relative_to(work)) for path in sorted(work.rglob("*")))]).encode()
    cpio = subprocess.run(["cpio", "--quiet", "--null", "--create", "--format=newc", "--owner=0:0", "--reproducible"],
                          cwd=work, input=names, stdout=subprocess.PIPE, check=True)
    subprocess.run(["zstd", "--quiet", "--force", "-9", "-o", out], input=cpio.stdout, check=True)
    shutil.rmtree(work)


def copy_modules(source: Path, target: Path, paths: list[str]) -> None:
    for path in paths:  # decompressed: not every busybox can
        place = target / path.removesuffix(".xz")
        place.parent.mkdir(parents=True, exist_ok=True)
        data = (source / path).read_bytes()
        place.write_bytes(lzma.decompress(data) if path.endswith(".xz") else data)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(source / name, target / name)
