"""Install the release that this file lies in. It comes with the release, and needs nothing but Python.

    sudo python3 /opt/earshot/releases/ID/install.py [--config FOLDER]    # on the device, by `make deploy`
    sudo python3 /opt/earshot/current/install.py --rollback               # what ran before runs again
    python3 FOLDER/opt/earshot/releases/ID/install.py --root FOLDER       # a system that does not run: flash, image

A release is a folder `/opt/earshot/releases/ID`: runtime, venv, bundles, system (unit and the like), this file, and
`files.sha256`, which names every file. `/opt/earshot/current` is a link to the one that runs, `previous` to the one
before; a switch is one rename. A release that is not whole, cannot load its bundles, or does not start as a service is
not switched to, or switched back from. --config FOLDER holds earshot.toml and its secrets, which replace the device's
own; without it those stay.

Exit codes: 0 it is installed (and runs); 1 it is not, and what ran before still does; 2 a mistake to be fixed.
"""

import argparse
import contextlib
import hashlib
import os
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
    told = read_config("earshot.toml")
    os.chdir(sys.argv[2])
    for bundle in told.get("bundle") or sys.exit("earshot.toml names no bundle"):
        Engine(bundle.replace("/opt/earshot/current", sys.argv[1]))
except (OptionsError, BundleError) as error:
    sys.exit(str(error))
"""


class InstallError(Exception):
    """Why it is not installed, in a line."""


def sums(release: Path) -> dict[str, str]:
    """SHA-256 by path of everything in a release but its folders; of a link, of the text it holds."""
    found = {}
    for folder, folders, names in os.walk(release):
        for name in (*names, *folders):
            path = Path(folder, name)
            if path.is_symlink():  # also to a folder, which os.walk counts among the folders and does not enter
                found[str(path.relative_to(release))] = hashlib.sha256(os.readlink(path).encode()).hexdigest()
            elif path != release / SUMS and name in names:
                data = path.read_bytes() if path.is_file() else b"neither file nor link"
                found[str(path.relative_to(release))] = hashlib.sha256(data).hexdigest()
    return found


def check_whole(release: Path) -> None:
    """Raises InstallError unless every file is there and as it was made, and no other."""
    try:
        lines = (release / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        raise InstallError(f"{release}: has no {SUMS}: it did not arrive whole, deploy again") from None
    wanted = {path: digest for digest, path in (line.split("  ", 1) for line in lines)}
    found = sums(release)
    wrong = sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))
    if wrong:
        raise InstallError(f"{release}: {len(wrong)} files are not as they were made, first {wrong[0]}: deploy again")


def own_bytes(path: Path) -> bytes | None:
    """Of a plain file of at most LARGEST bytes, else None.

    In a folder of the service's, a link could lead to what only root may read, and a pipe would hold up who opens it.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            data = file.read(LARGEST + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError:
        return None
    return None if data is None or len(data) > LARGEST else data


def write(path: Path, data: bytes, mode: int, owner: tuple[int, int] = (0, 0)) -> bool:
    """At once or not at all, and only when it differs → whether it did."""
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
    """Make or replace a link, at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, path)


def target_of(path: Path) -> str | None:
    return os.readlink(path) if path.is_symlink() else None


def make_account(root: Path, release: Path) -> None:
    """The user `earshot`, unless it is there."""
    process = subprocess.run(["systemd-sysusers", f"--root={root}", "-"], stderr=subprocess.PIPE, text=True,
                             input=(release / "system/earshot.sysusers").read_text())
    if process.returncode:
        raise InstallError(f"the user earshot cannot be made: {process.stderr.strip()}")


def account(root: Path) -> tuple[int, int]:
    """Numbers of the user `earshot` and its group."""
    for line in (root / "etc/passwd").read_text().splitlines():
        name, _, uid, gid, *_ = line.split(":")
        if name == "earshot":
            return int(uid), int(gid)
    raise InstallError("there is no user earshot")


def install_system(root: Path, release: Path) -> bool:
    """The unit and what else belongs to the system → whether anything changed."""
    return any([write(root / place, (release / "system" / name).read_bytes(), 0o644)
                for name, place in SYSTEM.items()])


def install_config(root: Path, release: Path, given: Path | None) -> bool:
    """The given configuration, or the release's own where there is none yet → whether anything changed.

    What a given one replaces is kept beside it with `.before` at its end.
    """
    owner, state = account(root), root / STATE
    source = given
    if source is None:
        if (state / CONFIG).exists():
            return False
        source = release / "system"
    names = [CONFIG] if given is None else sorted(os.listdir(source))
    changed = False
    for name in names:
        path = state / name
        old = own_bytes(path)
        if old is not None and old != (source / name).read_bytes():
            write(state / f"{name}.before", old, 0o600, owner)
        changed |= write(path, (source / name).read_bytes(), 0o600, owner)
    return changed


def make_state(root: Path, release: Path) -> Path:
    """The service's user and folder → the folder."""
    make_account(root, release)
    state = root / STATE
    state.mkdir(parents=True, exist_ok=True)
    os.chown(state, *account(root))
    state.chmod(0o755)
    return state


def check_runs(release: Path, config: Path, state: Path, user: tuple[int, int]) -> None:
    """Raises InstallError unless this machine can load the release, and the bundles that the configuration names.

    The configuration may be the service's own, and bundles a stranger's. So all of it happens as the service's user and
    within LIMITS.
    """
    told = own_bytes(config)
    if told is None:
        raise InstallError(f"{config}: no plain file of at most {LARGEST} bytes: remove it, or deploy with CONFIG=")
    with tempfile.TemporaryDirectory(prefix="earshot-") as folder, tempfile.TemporaryFile() as output:
        write(Path(folder, CONFIG), told, 0o640, (0, user[1]))
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
        said = output.read().decode(errors="replace").strip().splitlines()
    if code:
        ended = f"it ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = "".join(c if c.isprintable() else "?" for c in (said or [ended])[-1])
        raise InstallError(f"the release does not run here: {last}")


def limit() -> None:
    for what, most in LIMITS.items():
        resource.setrlimit(what, (most, most))


def restart() -> bool:
    """Whether the service is up, which its first hop or its wait for a microphone says."""
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    if shutil.which("udevadm"):  # LEDs that were there before our rule; without it only --led is missed
        subprocess.run(["udevadm", "trigger", "--action=add", "--subsystem-match=leds", "--settle"])
    return subprocess.run(["systemctl", "restart", "earshot"]).returncode == 0


def install(root: Path, release: Path, config: Path | None) -> None:
    """Raises InstallError, and leaves what was there."""
    is_live = root == Path("/")
    check_whole(release)
    home = root / HOME
    current, previous = home / "current", home / "previous"
    before = target_of(current)
    state = make_state(root, release)
    if is_live:
        os.sync()  # a power cut shall find the release whole behind the link that is to lead to it
        source = config or (state if (state / CONFIG).exists() else release / "system")
        check_runs(release, source / CONFIG, state, account(root))
    changed = install_system(root, release)
    changed |= install_config(root, release, config)
    wanted = f"releases/{release.name}"
    if before != wanted:
        changed = True
        if before is not None:
            link(previous, before)
        link(current, wanted)
    if target_of(root / WANTED) != f"/{UNIT}":
        link(root / WANTED, f"/{UNIT}")
    if is_live:
        is_up = subprocess.run(["systemctl", "is-active", "--quiet", "earshot"]).returncode == 0
        if not changed and is_up:
            print("nothing has changed, and the service runs")
        elif not restart():
            if before in (None, wanted):
                raise InstallError("the service does not start: journalctl -u earshot -n 20 says why")
            rollback(root, config is not None)
            raise InstallError("the service did not start, and what ran before runs again: journalctl -u earshot -n 40")
    if is_live:
        os.sync()  # what ran before goes when the link away from it is on the disk
    remove_old(home)


def rollback(root: Path, with_config: bool = True) -> None:
    """Switch current and previous, and the configuration where the last one was replaced. Raises InstallError."""
    home = root / HOME
    now, before = target_of(home / "current"), target_of(home / "previous")
    if now is None or before is None or not (home / before).is_dir():
        raise InstallError("there is no release from before: nothing to roll back to")
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
    """Releases that are neither current nor previous, and what did not arrive whole."""
    kept = {target_of(home / "current"), target_of(home / "previous")}
    for folder in (home / "releases").iterdir():
        if f"releases/{folder.name}" not in kept:
            shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", metavar="FOLDER", type=Path, default=Path("/"), help="of a system that does not run")
    parser.add_argument("--config", metavar="FOLDER", type=Path, help="earshot.toml and the files that it names")
    parser.add_argument("--rollback", action="store_true", help="run what ran before")
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
