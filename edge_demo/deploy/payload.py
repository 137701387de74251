"""What a device gets, made once for all three ways to it: `make deploy`, `make flash` and `make image`.

A release is a folder that `install.py` describes. It is whole: Python's packages are unpacked and byte-compiled here
for the device's Python, so that the device needs neither internet nor compiler nor time, and the same content has the
same name wherever it is made. What becomes of it on the device, with owners and modes, is `install.py`'s alone.
"""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from edge_demo.deploy import arm64, install
from runtime.bundle import engine, manifest
from runtime.errors import OptionsError
from runtime.options import read_config

ROOT = Path(__file__).resolve().parents[2]
RELEASES = ROOT / "dist" / "releases"
DEVICE = Path("/opt/earshot/current")


class PayloadError(Exception):
    """A mistake of the user's. The message is one line: what is wrong and what to do."""


def build(python: str, bundles: list[Path]) -> Path:
    """The release with these bundles for that version of Python ("3.13"): a folder in dist/releases.

    Raises PayloadError and arm64.Arm64Error.
    """
    if len({bundle.name for bundle in bundles}) < len(bundles):
        raise PayloadError("two bundles of the same name: rename the folder of one")
    for bundle in bundles:
        if bundle.name in ("", "..") or not bundle.name.isprintable():
            raise PayloadError(f"{str(bundle)!r}: its last part must be a name that can be printed: rename the folder")
    RELEASES.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=RELEASES))
    try:
        for bundle in bundles:  # first: a refusal need not wait for the packages
            copy_bundle(bundle, part / "bundles" / bundle.name)
        _fill(part, python, bundles, arm64.site(python))
        lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(install.sums(part).items()))
        (part / install.SUMS).write_text(lines, encoding="utf-8")
        _set_modes(part)
        release = RELEASES / hashlib.sha256(lines.encode()).hexdigest()[:12]
        if not release.exists():
            part.replace(release)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return release


def copy_bundle(bundle: Path, target: Path) -> None:
    """Copy the manifest and the files that it lists, and check that the copy is a bundle. Raises PayloadError.

    What else lies in a stranger's folder stays there, and no link is followed, not even the folder itself: it could
    lead to a file of this desk's, which would go to the device for everybody to read.
    """
    target.mkdir(parents=True)
    try:
        opened = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise PayloadError(f"{bundle}: is no folder to be opened ({error.strerror}): name a bundle's folder itself, "
                           "and no link to it") from None
    place = f"/proc/self/fd/{opened}"  # the folder that was opened, whatever has its name by now
    try:
        content = manifest.read_file(place, manifest.MANIFEST, manifest.LARGEST_MANIFEST)
        (target / manifest.MANIFEST).write_bytes(content)
        for name in manifest.read_manifest(str(target))["files"]:
            if os.path.lexists(f"{place}/{name}"):
                (target / name).write_bytes(manifest.read_file(place, name, manifest.LARGEST_FILE))
        engine.Engine(target)  # which compares size and SHA-256 of each, and refuses it when a model is missing
    except manifest.BundleError as error:
        raise PayloadError(str(error).replace(place, str(bundle)).replace(str(target), str(bundle))) from None
    finally:
        os.close(opened)


def toml_list(names: list[str]) -> str:
    """A list of texts in TOML, which knows JSON's escapes but for the pairs that stand for an emoji."""
    return json.dumps(names, ensure_ascii=False)


def _fill(release: Path, python: str, bundles: list[Path], site: Path) -> None:
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "runtime", release / "runtime", ignore=skipped)
    packages = release / "venv" / "lib" / f"python{python}" / "site-packages"
    shutil.copytree(site, packages, copy_function=os.link)  # hard links: it is 130 MB
    (release / "venv" / "bin").mkdir()
    (release / "venv" / "bin" / "python").symlink_to(f"/usr/bin/python{python}")
    (release / "venv" / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n")
    arm64.compile_all(python, release / "runtime", str(DEVICE / "runtime"))
    system = release / "system"
    system.mkdir()
    for name in ("earshot.service", "earshot.rules"):
        shutil.copy(ROOT / "edge_demo" / "deploy" / name, system)
    (system / "earshot.sysusers").write_text(
        'u earshot - "Earshot keyword spotting" /var/lib/earshot\nm earshot audio\n')
    names = [str(DEVICE / "bundles" / bundle.name) for bundle in bundles]
    (system / install.CONFIG).write_text(
        f"bundle = {toml_list(names)}\n"
        "dashboard = 8765  # of this machine only: ssh -L 8765:127.0.0.1:8765 USER@HOST\n"
        'dashboard-token-file = "dashboard-token"  # made at the first start: http://127.0.0.1:8765/?token=TOKEN\n',
        encoding="utf-8")
    shutil.copy(install.__file__, release)


def _set_modes(release: Path) -> None:
    """755 and 644, whatever the umask was here."""
    for folder, _, names in os.walk(release):
        os.chmod(folder, 0o755)
        for name in names:
            path = os.path.join(folder, name)
            if not stat.S_ISLNK(os.lstat(path).st_mode):
                os.chmod(path, 0o644)


def config_folder(config: Path, bundles: list[Path], folder: Path) -> None:
    """Copy a configuration and the secrets that it names into a folder, as the device shall have them.

    Raises PayloadError when it is not one, or names a bundle that is not among those.
    """
    try:
        told = read_config(str(config))
    except OptionsError as error:
        raise PayloadError(str(error)) from None
    text = config.read_text(encoding="utf-8")
    wanted = {str(DEVICE / "bundles" / bundle.name) for bundle in bundles}
    if not wanted.issuperset(told.get("bundle", ())) or "bundle" not in told:
        names = toml_list(sorted(wanted))
        raise PayloadError(f"{config}: bundle must name what goes to the device: bundle = {names}")
    for name, path in told.items():
        if name.endswith("-file"):
            if Path(path).parent != config.parent:
                raise PayloadError(f"{config}: {name} must lie beside it, as it does on the device: move it there")
            if name == "dashboard-token-file" and not os.path.lexists(path):
                continue  # the device makes one
            try:
                shutil.copy(path, folder)
            except OSError as error:
                raise PayloadError(f"{path}: cannot be read ({error.strerror}): {name} of {config} names it") from None
    (folder / install.CONFIG).write_text(text, encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o600)


def into(root: Path, release: Path, config: Path | None) -> None:
    """Put a release into the root of a system that does not run. Needs root. Raises PayloadError."""
    place = root / install.HOME / "releases" / release.name
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", "--no-dereference", "--preserve=mode", release, place], check=True)
        subprocess.run(["chown", "-R", "-h", "0:0", root / install.HOME], check=True)
    command = [sys.executable, str(place / "install.py"), f"--root={root}", *([f"--config={config}"] if config else [])]
    process = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if process.returncode:
        raise PayloadError(process.stderr.strip().removeprefix("install: error: "))


def differences(root: Path, release: Path) -> list[str]:
    """What of a release is not installed in that root as it should be, a line each: bytes, owners, modes, links."""
    place = root / install.HOME / "releases" / release.name
    wanted = {**install.sums(release), install.SUMS: _digest(release / install.SUMS)}
    found = {**install.sums(place), install.SUMS: _digest(place / install.SUMS)}
    wrong = [f"{path}: content" for path in sorted(wanted.keys() | found.keys()) if wanted.get(path) != found.get(path)]
    paths = [place, *place.rglob("*"), *(root / place for place in install.SYSTEM.values())]
    for path in paths:
        status = path.lstat()
        mode = 0o777 if path.is_symlink() else 0o755 if path.is_dir() else 0o644
        if (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) != (0, 0, mode):
            wrong.append(f"{path}: owner {status.st_uid}:{status.st_gid}, mode {stat.S_IMODE(status.st_mode):o}")
    for name, goal in install.SYSTEM.items():
        if _digest(root / goal) != wanted[f"system/{name}"]:
            wrong.append(f"{goal}: content")
    for name, target in ((f"{install.HOME}/current", f"releases/{release.name}"), (install.WANTED, f"/{install.UNIT}")):
        if install.target_of(root / name) != target:
            wrong.append(f"{name}: leads to {install.target_of(root / name)}")
    owner = install.account(root)
    for path in [root / install.STATE, *(root / install.STATE).iterdir()]:
        status = path.lstat()
        allowed = (0o755,) if path.is_dir() else (0o600,)
        if (status.st_uid, status.st_gid) != owner or stat.S_IMODE(status.st_mode) not in allowed:
            wrong.append(f"{path}: owner {status.st_uid}:{status.st_gid}, mode {stat.S_IMODE(status.st_mode):o}")
    return wrong


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
