"""Make setting up Debian packages of another processor's bearable: called by mmdebstrap's hooks, from image.py.

    python -m edge_demo.deploy.swift divert ROOT      # programs that eat the time do nothing, or are this machine's
    python -m edge_demo.deploy.swift restore ROOT     # as packages have them

Unpacking and maintainers' scripts spend their time in the NATIVE programs, which do the same as this machine's
binaries; the kernel starts those as they are, with their libraries in a folder that no arm64 package has. What NOTHING
would do is done afterwards by this machine (image.py), or is not needed.
"""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

NOTHING = ("/usr/bin/python3.13", "/usr/sbin/depmod", "/usr/sbin/update-initramfs", "/usr/bin/systemd-hwdb",
           "/usr/bin/ssh-keygen")
NATIVE = ("/usr/bin/dpkg-deb", "/usr/bin/dash", "/usr/bin/perl", "/usr/bin/tar", "/usr/bin/sed", "/usr/bin/grep")
PERL = "usr/lib/x86_64-linux-gnu/perl-base"  # perl's own modules, in a folder of each architecture's
LOADER = "lib64"  # where this machine's programs look for their loader; a link, or systemd says /usr is not merged


def is_x86_64() -> bool:
    """Whether this machine is none of arm64, but x86-64: elsewhere everything is emulated, and it takes its time."""
    return platform.machine() == "x86_64"


def libraries(program: str) -> dict[Path, Path]:
    """Where the loader finds what a program of this machine needs → the files."""
    lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return {Path(path): Path(path).resolve() for path in re.findall(r"(/\S+) \(0x", lines)}


def divert(root: Path) -> None:
    for program in NOTHING:
        _dpkg_divert(root, program, "--add")
        (root / program[1:]).symlink_to("/usr/bin/true")
    if is_x86_64():
        shutil.copytree(f"/{PERL}", root / PERL, symlinks=True)
        (root / "usr" / LOADER).mkdir()
        (root / LOADER).symlink_to(f"usr/{LOADER}")
    for program in NATIVE if is_x86_64() else ():
        # Read before it is moved: the shell itself is among them, and there is none while it is away.
        copied = [(root / str(path)[1:], file) for path, file in libraries(program).items()]
        for place, file in copied:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
            place.chmod(0o755)
        _dpkg_divert(root, program, "--add")
        shutil.copy(program, root / program[1:])


def restore(root: Path) -> None:
    for program in (*NOTHING, *(NATIVE if is_x86_64() else ())):
        (root / program[1:]).unlink()
        _dpkg_divert(root, program, "--remove")
    if is_x86_64():
        shutil.rmtree(root / PERL)
        for path in {path for program in NATIVE for path in libraries(program)}:
            (root / str(path)[1:]).unlink()
        (root / LOADER).unlink()
        for folder in (root / "usr" / LOADER, (root / PERL).parent):
            folder.rmdir()


def _dpkg_divert(root: Path, program: str, action: str) -> None:
    subprocess.run(["dpkg-divert", f"--root={root}", "--quiet", "--rename", "--divert", f"{program}.slow", action,
                    program], check=True)


if __name__ == "__main__":
    {"divert": divert, "restore": restore}[sys.argv[1]](Path(sys.argv[2]))
