"""Install the release that contains this file. Needs nothing but Python.

    sudo python3 /opt/earshot/releases/ID/install.py [--config FOLDER]    # on the device, by `make deploy`
    sudo python3 /opt/earshot/current/install.py --rollback               # the previous release
    python3 FOLDER/opt/earshot/releases/ID/install.py --root FOLDER       # a system that does not run: flash, image

A release is a folder `/opt/earshot/releases/ID`: runtime, venv, bundles, system (unit and the like), this file, and
`files.sha256`, which lists every file. `/opt/earshot/current` is a link to the one that runs, `previous` to the one
before; a switch is one rename. A release that is incomplete or cannot load its bundles is not switched to. One that
does not start as a service is switched back. --config FOLDER holds earshot.toml and its secrets, which replace the
device's; without it the device's stay.

Exit codes: 0 installed (and running); 1 not installed, and what ran before still runs; 2 a mistake to be fixed.
"""

import argparse
import contextlib
import hashlib
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = "opt/earshot"
STATE = "var/lib/earshot"
UNIT = "etc/systemd/system/earshot.service"
WANTED = "etc/systemd/system/multi-user.target.wants/earshot.service"
SUMS = "files.sha256"
# Of a release's system/ → where it goes. Owner root, mode 644.
SYSTEM = {
    "earshot.service": UNIT,
    "earshot.sysusers": "usr/lib/sysusers.d/earshot.conf",
    "earshot.rules": "usr/lib/udev/rules.d/60-earshot.rules",
}
CONFIG = "earshot.toml"
LARGEST = 1 << 20  # bytes of a file that the service's user may have written
CHECK_SECONDS = 120
LIMITS = {
    resource.RLIMIT_CPU: 60,  # seconds
    resource.RLIMIT_DATA: 256 << 20,  # bytes of memory; numpy, onnxruntime and a bundle take 62 MB
    resource.RLIMIT_FSIZE: LARGEST,
    resource.RLIMIT_NPROC: 64,  # processes and threads of the user's
    resource.RLIMIT_CORE: 0,
}
# argv: the release, and the folder where the configuration's relative names start.
CHECK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from runtime.options import read_config
from runtime.errors import BundleError, OptionsError
from runtime.bundle.engine import Engine
from runtime.audio.devices import import_pyaudio
try:
    import_pyaudio()
    config = read_config("earshot.toml")
    os.chdir(sys.argv[2])
    for bundle in config.get("bundle") or sys.exit("earshot.toml names no bundle"):
        Engine(bundle.replace("/opt/earshot/current", sys.argv[1]))
except (OptionsError, BundleError) as error:
    sys.exit(str(error))
"""


class InstallError(Exception):
    """Why a release is not installed. The message is one line."""


def sums(release: Path) -> dict[str, str]:
    """SHA-256 by path of everything in a release but its folders; of a link, of the text it holds."""
    digests = {}
    for folder, folders, names in os.walk(release):
        for name in (*names, *folders):
            path = Path(folder, name)
            if path.is_symlink():  # os.walk lists a link to a folder among the folders, and does not follow it
                digests[str(path.relative_to(release))] = hashlib.sha256(os.readlink(path).encode()).hexdigest()
            elif path != release / SUMS and name in names:
                data = path.read_bytes() if path.is_file() else b"neither file nor link"
                digests[str(path.relative_to(release))] = hashlib.sha256(data).hexdigest()
    return digests


def check_whole(release: Path) -> None:
    """Raises InstallError unless exactly the listed files are there, unchanged."""
    if not (release / SUMS).is_file():
        raise InstallError(f"{release}: has no {SUMS}: it is incomplete, deploy again")
    lines = (release / SUMS).read_text(encoding="utf-8").splitlines()
    listed = {path: digest for digest, path in (line.split("  ", 1) for line in lines)}
    actual = sums(release)
    wrong = sorted(path for path in listed.keys() | actual.keys() if listed.get(path) != actual.get(path))
    if wrong:
        raise InstallError(f"{release}: {len(wrong)} files are not as they were made, first {wrong[0]}: deploy again")


def own_bytes(path: Path) -> bytes | None:
    """Content of a regular file of at most LARGEST bytes, else None.

    The service can write to its folder: a link there could lead to a file that only root may read, and opening a pipe
    would block.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            data = file.read(LARGEST + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError:
        return None
    return None if data is None or len(data) > LARGEST else data


def text_of(path: Path) -> str:
    """Of such a file, which the system has. Raises InstallError."""
    data = own_bytes(path)
    if data is None:
        raise InstallError(f"{path}: no plain file of at most {LARGEST} bytes, as every system has: take another")
    return data.decode(errors="surrogateescape")


def write(path: Path, data: bytes, mode: int, owner: tuple[int, int] = (0, 0)) -> bool:
    """Replace a file atomically, if its content differs → whether it did."""
    if own_bytes(path) == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".earshot-")
    try:
        with open(handle, "wb") as file:
            file.write(data)
            os.fchmod(handle, mode)
            os.fchown(handle, *owner)
            file.flush()
            os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return True


def link(path: Path, target: str) -> None:
    """Make or replace a link atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, path)


def target_of(path: Path) -> str | None:
    return os.readlink(path) if path.is_symlink() else None


def make_account(root: Path, release: Path) -> None:
    """Make the user `earshot`, unless it exists."""
    process = subprocess.run(["systemd-sysusers", f"--root={root}", "-"], stderr=subprocess.PIPE, text=True,
                             input=(release / "system/earshot.sysusers").read_text())
    if process.returncode:
        raise InstallError(f"the user earshot cannot be made: {process.stderr.strip()}")


def account(root: Path) -> tuple[int, int]:
    """Numeric ids of the user `earshot` and its group. Raises InstallError."""
    match = re.search(r"^earshot:[^:\n]*:(\d{1,9}):(\d{1,9}):", text_of(root / "etc/passwd"), re.MULTILINE)
    if match is None:
        raise InstallError("there is no user earshot")
    return int(match[1]), int(match[2])


def install_system(root: Path, release: Path) -> bool:
    """Install the unit and the other files of SYSTEM → whether anything changed."""
    return any([write(root / place, (release / "system" / name).read_bytes(), 0o644)
                for name, place in SYSTEM.items()])


def install_config(root: Path, release: Path, given: Path | None) -> bool:
    """Install the given configuration, or the release's own if there is none yet → whether anything changed.

    Files that a given configuration replaces are kept as `<name>.before`.
    """
    owner, state = account(root), root / STATE
    if given is None and (state / CONFIG).exists():
        return False
    source, names = (given, sorted(os.listdir(given))) if given else (release / "system", [CONFIG])
    changed = False
    for name in names:
        path = state / name
        old = own_bytes(path)
        if old is not None and old != (source / name).read_bytes():
            write(state / f"{name}.before", old, 0o600, owner)
        changed |= write(path, (source / name).read_bytes(), 0o600, owner)
    return changed


def make_state(root: Path, release: Path) -> Path:
    """Make the service's user and folder → the folder."""
    make_account(root, release)
    state = root / STATE
    state.mkdir(parents=True, exist_ok=True)
    os.chown(state, *account(root))
    state.chmod(0o755)
    return state


def check_runs(release: Path, config: Path, state: Path, user: tuple[int, int]) -> None:
    """Raises InstallError unless this machine can load the release, and the bundles that the configuration names.

    The service can write its configuration, and bundles may come from anyone. So this runs as the service's user and
    within LIMITS.
    """
    content = own_bytes(config)
    if content is None:
        raise InstallError(f"{config}: no plain file of at most {LARGEST} bytes: remove it, or deploy with CONFIG=")
    with tempfile.TemporaryDirectory(prefix="earshot-") as folder, tempfile.TemporaryFile() as output:
        write(Path(folder, CONFIG), content, 0o640, (0, user[1]))
        os.chmod(folder, 0o711)
        process = subprocess.Popen(
            [release / "venv/bin/python", "-I", "-B", "-c", CHECK, release, state], cwd=folder, user=user[0],
            group=user[1], extra_groups=(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=output,
            env={"OPENBLAS_NUM_THREADS": "1"}, start_new_session=True, preexec_fn=limit)
        try:
            code = process.wait(CHECK_SECONDS)
        except subprocess.TimeoutExpired:
            raise InstallError(f"the release does not run here: no answer in {CHECK_SECONDS} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
    if code:
        ended = f"it ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = "".join(c if c.isprintable() else "?" for c in (lines or [ended])[-1])
        raise InstallError(f"the release does not run here: {last}")


def limit() -> None:
    for what, most in LIMITS.items():
        resource.setrlimit(what, (most, most))


def restart() -> bool:
    """Restart the service → whether it is up: it reports its first hop or its wait for a microphone."""
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    if shutil.which("udevadm"):  # apply the rule to existing LEDs; only --led depends on it
        subprocess.run(["udevadm", "trigger", "--action=add", "--subsystem-match=leds", "--settle"])
    return subprocess.run(["systemctl", "restart", "earshot"]).returncode == 0


def install(root: Path, release: Path, config: Path | None) -> None:
    """Raises InstallError; what was installed before then stays."""
    is_live = root == Path("/")
    check_whole(release)
    home = root / HOME
    before = target_of(home / "current")
    state = make_state(root, release)
    if is_live:
        os.sync()  # a power cut must not leave the link `current` to an incomplete release
        source = config or (state if (state / CONFIG).exists() else release / "system")
        check_runs(release, source / CONFIG, state, account(root))
    changed = switch(root, release, config)
    if is_live:
        start(root, changed, before in (None, target_of(home / "current")), config is not None)
        os.sync()  # the old release is removed only after the new link is on the disk
    remove_old(home)


def switch(root: Path, release: Path, config: Path | None) -> bool:
    """Install the release's files and configuration, and link to it → whether anything changed."""
    changed = install_system(root, release)
    changed |= install_config(root, release, config)
    current, target = root / HOME / "current", f"releases/{release.name}"
    before = target_of(current)
    if before != target:
        changed = True
        if before is not None:
            link(root / HOME / "previous", before)
        link(current, target)
    if target_of(root / WANTED) != f"/{UNIT}":
        link(root / WANTED, f"/{UNIT}")
    return changed


def start(root: Path, changed: bool, is_only: bool, with_config: bool) -> None:
    """Restart the service if needed. Raises InstallError when it does not start, after a rollback.

    is_only: there is no other release; with_config: roll back the configuration, too."""
    if not changed and subprocess.run(["systemctl", "is-active", "--quiet", "earshot"]).returncode == 0:
        print("nothing has changed, and the service runs")
    elif not restart():
        if is_only:
            raise InstallError("the service does not start: journalctl -u earshot -n 20 says why")
        rollback(root, with_config)
        raise InstallError("the service did not start, and what ran before runs again: journalctl -u earshot -n 40")


def rollback(root: Path, with_config: bool = True) -> None:
    """Exchange current and previous, and the configuration if it was replaced. Raises InstallError."""
    home = root / HOME
    now, before = target_of(home / "current"), target_of(home / "previous")
    if now is None or before is None or not (home / before).is_dir():
        raise InstallError("there is no previous release: nothing to roll back to")
    for saved in (root / STATE).glob("*.before") if with_config else ():
        current = saved.with_suffix("")
        old, new = own_bytes(saved), own_bytes(current)
        if old is not None and new is not None:
            write(current, old, 0o600, account(root))
            write(saved, new, 0o600, account(root))
    install_system(root, home / before)
    link(home / "current", before)
    link(home / "previous", now)
    if not restart():
        raise InstallError("the service does not start: journalctl -u earshot -n 20 says why")


def remove_old(home: Path) -> None:
    """Remove releases that are neither current nor previous, and incomplete ones."""
    kept = {target_of(home / "current"), target_of(home / "previous")}
    for folder in (home / "releases").iterdir():
        if f"releases/{folder.name}" not in kept:
            shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", metavar="FOLDER", type=Path, default=Path("/"), help="of a system that does not run")
    parser.add_argument("--config", metavar="FOLDER", type=Path, help="earshot.toml and the files that it names")
    parser.add_argument("--rollback", action="store_true", help="run the previous release")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("install: error: only root may: put sudo before it", file=sys.stderr)
        return 2
    try:
        if options.rollback:
            rollback(options.root)
        else:
            install(options.root, Path(__file__).resolve().parent, options.config)
    except (InstallError, OSError, subprocess.CalledProcessError) as error:
        print(f"install: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
