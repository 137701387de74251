"""Set up Debian packages for another processor with this machine's programs: hooks of mmdebstrap, used by image.py.

    python -m edge_demo.deploy.native divert ROOT      # replace slow programs by native ones, or by none
    python -m edge_demo.deploy.native restore ROOT     # the packages' own programs again

Emulated, unpacking and maintainers' scripts spend their time in the NATIVE programs. This machine's binaries do the
same; their libraries go to a folder that no arm64 package uses. The work of the SKIPPED programs is done afterwards by
image.py, or is not needed.
"""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

SKIPPED = ("/usr/bin/python3.13", "/usr/sbin/depmod", "/usr/sbin/update-initramfs", "/usr/bin/systemd-hwdb",
           "/usr/bin/ssh-keygen")
PROGRAMS = ("/usr/bin/dpkg-deb", "/usr/bin/dash", "/usr/bin/perl", "/usr/bin/tar", "/usr/bin/sed", "/usr/bin/grep")
NATIVE = PROGRAMS if platform.machine() == "x86_64" else ()  # elsewhere everything is emulated
PERL = "usr/lib/x86_64-linux-gnu/perl-base"  # perl's own modules, in a folder of each architecture's
LOADER = "lib64"  # where this machine's programs look for their loader; a link, or systemd says /usr is not merged


def libraries(program: str) -> dict[Path, Path]:
    """Paths of a program's libraries for the loader → the files."""
    lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return {Path(path): Path(path).resolve() for path in re.findall(r"(/\S+) \(0x", lines)}


def divert(root: Path) -> None:
    for program in SKIPPED:
        dpkg_divert(root, program, "--add")
        (root / program[1:]).symlink_to("/usr/bin/true")
    if NATIVE:
        shutil.copytree(f"/{PERL}", root / PERL, symlinks=True)
        (root / "usr" / LOADER).mkdir()
        (root / LOADER).symlink_to(f"usr/{LOADER}")
    for program in NATIVE:
        # Look them up before the move: ldd needs the shell, which is among the programs.
        copied = [(root / str(path)[1:], file) for path, file in libraries(program).items()]
        for place, file in copied:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
            place.chmod(0o755)
        dpkg_divert(root, program, "--add")
        shutil.copy(program, root / program[1:])


def restore(root: Path) -> None:
    for program in (*SKIPPED, *NATIVE):
        (root / program[1:]).unlink()
        dpkg_divert(root, program, "--remove")
    if NATIVE:
        shutil.rmtree(root / PERL)
        for path in {path for program in NATIVE for path in libraries(program)}:
            (root / str(path)[1:]).unlink()
        (root / LOADER).unlink()
        for folder in (root / "usr" / LOADER, (root / PERL).parent):
            folder.rmdir()


def dpkg_divert(root: Path, program: str, action: str) -> None:
    subprocess.run(["dpkg-divert", f"--root={root}", "--quiet", "--rename", "--divert", f"{program}.slow", action,
                    program], check=True)


if __name__ == "__main__":
    {"divert": divert, "restore": restore}[sys.argv[1]](Path(sys.argv[2]))
