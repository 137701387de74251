"""A Pi's software on another machine: an arm64 Debian in a folder, wheels for its Python, and emulation to run it.

    from edge_demo.deploy import arm64
    root = arm64.root("trixie")                                  # once, then from the cache
    site = arm64.site("3.13")                                    # numpy, onnxruntime, soxr, PyAudio
    subprocess.run([*arm64.emulated(root), "/usr/bin/python3", "-c", "import platform; print(platform.machine())"])

Needs mmdebstrap, qemu-user-static and patchelf (make image-system), and for the first run Debian's and PyPI's servers.
"""

import glob
import hashlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from edge_demo.deploy.command import ROOT, DeployError, need, run

CACHE = ROOT / "dist" / "arm64"
SUITES = {"3.11": "bookworm", "3.13": "trixie"}  # Python → the Debian, and the Raspberry Pi OS, that has it
NEEDS = ("mmdebstrap", "qemu-aarch64-static", "patchelf")
LOCK = ROOT / "runtime" / "requirements.lock"  # versions and SHA-256
# Inference imports only numpy and onnxruntime (tests/runtime/test_device_imports.py), so no dependencies.
PACKAGES = ("numpy", "onnxruntime", "soxr")
# PyAudio has no wheels. Debian's needs these, which a Lite system does not have.
PYAUDIO_LIBRARIES = ("libportaudio.so.2", "libjack.so.0")
# onnxruntime's cpuinfo crashes on an x86 /proc/cpuinfo. This one is a Raspberry Pi 4's Cortex-A72.
CPUINFO = "".join(f"""processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

""" for number in range(4))


def root(suite: str, architecture: str = "arm64") -> Path:
    """A folder with that Debian's Python and PyAudio, unpacked but not set up: for `emulated`, not to boot."""
    folder = CACHE / f"{suite}-{architecture}"
    if not folder.is_dir():
        need("mmdebstrap")
        part = partial_folder(folder)
        run("mmdebstrap", "--quiet", f"--architectures={architecture}", "--variant=extract",
            "--include=python3,python3-pyaudio", suite, part, what=f"Debian {suite} for {architecture}")
        for name in ("bin", "lib"):  # unpacked packages lack the links that their set-up makes
            if not (part / name).exists():
                (part / name).symlink_to(f"usr/{name}")
        (part / "proc").mkdir(exist_ok=True)
        (part / "proc" / "cpuinfo").write_text(CPUINFO)
        part.replace(folder)
    return folder


def emulated(folder: Path) -> list[str]:
    """The command that runs a program of that root on this machine. A file that the root does not have is this
    machine's.
    """
    need("qemu-aarch64-static")
    return ["qemu-aarch64-static", "-L", str(folder)]


def site(python: str) -> Path:
    """A site-packages folder for that version of Python ("3.13") with PACKAGES and PyAudio. Raises DeployError."""
    if python not in SUITES:
        raise DeployError(f"Python {python}: has no PyAudio ready: use a system with {' or '.join(SUITES)}, "
                         "as Raspberry Pi OS Bookworm and Trixie are")
    locked = locked_packages()
    folder = CACHE / f"site-{python}-{hashlib.sha256(locked.encode()).hexdigest()[:8]}"
    if not folder.is_dir():
        debian = root(SUITES[python])
        part = partial_folder(folder)
        add_wheels(python, locked, part)
        add_pyaudio(debian, part)
        compile_all(python, part, f"/opt/earshot/current/venv/lib/python{python}/site-packages")
        part.replace(folder)
    return folder


def locked_packages() -> str:
    """The lines of LOCK for PACKAGES: name, version, and a SHA-256 for each file."""
    entries = re.findall(r"^[^ #\n].*\n(?: .*\n)*", LOCK.read_text(), re.MULTILINE)
    return "".join(entry for entry in entries if entry.partition("==")[0] in PACKAGES)


def add_wheels(python: str, locked: str, folder: Path) -> None:
    """Unpack the locked arm64 wheels. Raises DeployError."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(locked)
        file.flush()
        run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, "--only-binary=:all:",
            "--platform=manylinux_2_28_aarch64", "--implementation=cp", f"--python-version={python}",
            "--require-hashes", "--requirement", file.name, what=f"wheels for Python {python} on arm64")
    shutil.rmtree(folder / "bin", ignore_errors=True)  # commands of numpy's, with this machine's Python in them


def add_pyaudio(debian: Path, folder: Path) -> None:
    need("patchelf")
    shutil.copytree(debian / "usr/lib/python3/dist-packages/pyaudio", folder / "pyaudio")
    for name in PYAUDIO_LIBRARIES:
        shutil.copy(debian / "usr/lib/aarch64-linux-gnu" / name, folder / "pyaudio" / name)
    for library in glob.glob(f"{folder}/pyaudio/*.so*"):
        run("patchelf", "--set-rpath", "$ORIGIN", library)


def compile_all(python: str, folder: Path, shown: str) -> None:
    """Byte-compile for that version. The service cannot write there, and would compile at every start.

    shown: the folder's name in tracebacks. The result depends on neither time, place nor processor, so this processor's
    Debian Python compiles, without emulation.
    """
    native = root(SUITES[python], run("dpkg", "--print-architecture").strip())
    loader = next(path for path in (native / "usr").glob("lib*/ld-linux-*.so.*"))
    libraries = next((native / "usr/lib").glob("*-linux-gnu"))
    program = native / f"usr/bin/python{python}"
    run("env", "-i", f"PYTHONHOME={native}/usr", loader, "--library-path", libraries, program, "-S",
        "-m", "compileall", "-q", "-s", folder, "-p", shown, "--invalidation-mode", "unchecked-hash", folder)


def partial_folder(folder: Path) -> Path:
    """An empty folder beside it, to be renamed when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(old)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    os.chmod(part, 0o755)
    return part
