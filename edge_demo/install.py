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
import hashlib
import os
import shutil
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


class InstallError(Exception):
    """Why it is not installed, in a line."""


def sums(release: Path) -> dict[str, str]:
    """SHA-256 by path of everything in a release; of a link, of the text it holds."""
    found = {}
    for folder, _, names in os.walk(release):
        for name in names:
            path = Path(folder, name)
            if path != release / SUMS:
                data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
                found[str(path.relative_to(release))] = hashlib.sha256(data).hexdigest()
    return found


def check_whole(release: Path) -> None:
    """Raises InstallError unless every file is there and as it was made, and no other."""
    try:
        lines = (release / SUMS).read_text().splitlines()
    except OSError:
        raise InstallError(f"{release}: has no {SUMS}: it did not arrive whole, deploy again") from None
    wanted = {path: digest for digest, path in (line.split("  ", 1) for line in lines)}
    found = sums(release)
    wrong = sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))
    if wrong:
        raise InstallError(f"{release}: {len(wrong)} files are not as they were made, first {wrong[0]}: deploy again")


def own_bytes(path: Path) -> bytes | None:
    """Of a file that is none but itself: in a folder of the service's, a link could lead to what only root may read."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return file.read()
    except OSError:
        return None


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


def make_account(root: Path) -> None:
    """The user `earshot`, unless it is there."""
    process = subprocess.run(["systemd-sysusers", f"--root={root}", "earshot.conf"], stderr=subprocess.PIPE, text=True)
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
    make_account(root)
    owner = account(root)
    state = root / STATE
    state.mkdir(parents=True, exist_ok=True)
    os.chown(state, *owner)
    state.chmod(0o755)
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


def check_runs(release: Path, config: Path) -> None:
    """Raises InstallError unless this machine can load the release, and what the configuration names is in it."""
    python = release / "venv/bin/python"
    program = ("import sys; sys.path.insert(0, sys.argv[1])\n"
               "from runtime.options import OptionsError, read_config\n"
               "from runtime.engine import BundleError, Engine\n"
               "from runtime.devices import import_pyaudio\n"
               "try:\n"
               "    import_pyaudio()\n"
               "    for bundle in read_config(sys.argv[2])['bundle']:\n"
               "        Engine(bundle.replace('/opt/earshot/current', sys.argv[1]))\n"
               "except (OptionsError, BundleError) as error:\n"
               "    sys.exit(str(error))\n")
    process = subprocess.run([python, "-B", "-c", program, release, config], capture_output=True, text=True)
    if process.returncode:
        last = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        raise InstallError(f"the release does not run here: {last}")


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
    if is_live:
        kept = root / STATE / CONFIG
        os.sync()  # a power cut shall find the release whole behind the link that is to lead to it
        check_runs(release, (config or (kept.parent if kept.exists() else release / "system")) / CONFIG)
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
