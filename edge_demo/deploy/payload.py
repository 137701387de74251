"""The release that `make deploy`, `make flash` and `make image` bring to a device.

A release is a folder that `install.py` describes. Python's packages in it are unpacked and byte-compiled for the
device's Python, so the device needs neither internet nor compiler. Its name is a hash of its content. `install.py`
installs it, with owners and modes.
"""

import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from edge_demo.deploy import arm64, disk, install
from edge_demo.deploy.command import ROOT, DeployError, run
from runtime.bundle import manifest, trial
from runtime.errors import OptionsError
from runtime.options import read_config

RELEASES = ROOT / "dist" / "releases"
DEVICE = Path("/opt/earshot/current")


def build(python: str, bundles: list[Path]) -> Path:
    """The release with these bundles for that version of Python ("3.13"): a folder in dist/releases.

    Raises DeployError.
    """
    if len({bundle.name for bundle in bundles}) < len(bundles):
        raise DeployError("two bundles of the same name: rename the folder of one")
    for bundle in bundles:
        if bundle.name in ("", "..") or not bundle.name.isprintable():
            raise DeployError(f"{str(bundle)!r}: its last part must be a name that can be printed: rename the folder")
    RELEASES.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=RELEASES))
    try:
        for bundle in bundles:  # first, because it may be refused
            copy_bundle(bundle, part / "bundles" / bundle.name)
        fill(part, python, bundles, arm64.site(python))
        lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(install.sums(part).items()))
        (part / install.SUMS).write_text(lines, encoding="utf-8")
        set_modes(part)
        release = RELEASES / hashlib.sha256(lines.encode()).hexdigest()[:12]
        if not release.exists():
            part.replace(release)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return release


def copy_bundle(bundle: Path, target: Path) -> None:
    """Copy the manifest and the files that it lists, and check that the copy is a bundle. Raises DeployError.

    Other files are not copied. No link is followed, also not the folder itself: it could lead to a private file of this
    machine, which every user of the device could then read.
    """
    target.mkdir(parents=True)
    try:
        opened = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise DeployError(f"{bundle}: cannot be opened as a folder ({error.strerror}): name a bundle's folder "
                           "itself, and no link to it") from None
    place = f"/proc/self/fd/{opened}"  # the opened folder, even if its name now leads elsewhere
    try:
        content = manifest.read_file(place, manifest.MANIFEST, manifest.LARGEST_MANIFEST)
        (target / manifest.MANIFEST).write_bytes(content)
        for name in manifest.read_manifest(str(target))["files"]:
            if os.path.lexists(f"{place}/{name}"):
                (target / name).write_bytes(manifest.read_file(place, name, manifest.LARGEST_FILE))
        set_modes(target)
        # The trial compares size and SHA-256 of each file, and refuses a bundle without its model.
        if trial.try_out(target, user=disk.lone_user()) is None:
            raise DeployError(f"{bundle}: cannot be tried, as {sys.executable} cannot be started again: mend that")
    except manifest.BundleError as error:
        raise DeployError(str(error).replace(place, str(bundle)).replace(str(target), str(bundle))) from None
    finally:
        os.close(opened)


def toml_list(names: list[str]) -> str:
    """A list of strings in TOML. It has JSON's escapes except surrogate pairs."""
    return json.dumps(names, ensure_ascii=False)


def fill(release: Path, python: str, bundles: list[Path], site: Path) -> None:
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


def set_modes(release: Path) -> None:
    """755 and 644, whatever the umask is."""
    for folder, _, names in os.walk(release):
        os.chmod(folder, 0o755)
        for name in names:
            path = os.path.join(folder, name)
            if not stat.S_ISLNK(os.lstat(path).st_mode):
                os.chmod(path, 0o644)


def config_folder(config: Path, bundles: list[Path], folder: Path) -> None:
    """Copy a configuration and the secrets that it names into a folder, for the device.

    Raises DeployError for an invalid configuration, or one that names a bundle that is not deployed.
    """
    try:
        options = read_config(str(config))
    except OptionsError as error:
        raise DeployError(str(error)) from None
    text = config.read_text(encoding="utf-8")
    deployed = {str(DEVICE / "bundles" / bundle.name) for bundle in bundles}
    if not deployed.issuperset(options.get("bundle", ())) or "bundle" not in options:
        names = toml_list(sorted(deployed))
        raise DeployError(f"{config}: bundle must name the deployed bundles: bundle = {names}")
    for name, path in options.items():
        if name.endswith("-file"):
            if Path(path).parent != config.parent:
                raise DeployError(f"{config}: {name} must lie beside it, as it does on the device: move it there")
            if name == "dashboard-token-file" and not os.path.lexists(path):
                continue  # the device makes one
            try:
                shutil.copy(path, folder)
            except OSError as error:
                raise DeployError(f"{path}: cannot be read ({error.strerror}): {name} of {config} names it") from None
    (folder / install.CONFIG).write_text(text, encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o600)


def into(root: Path, release: Path, config: Path | None) -> None:
    """Install a release into the root of a system that is not running. Needs root. Raises DeployError and InstallError.

    Nothing that the system brings is run or believed, also not a release that has this one's name.
    """
    place = root / install.HOME / "releases" / release.name
    run("rm", "-rf", "--one-file-system", place)
    place.parent.mkdir(parents=True, exist_ok=True)
    run("cp", "-r", "--no-dereference", "--preserve=mode", release, place)
    run("chown", "-R", "-h", "0:0", root / install.HOME)
    install.install(root, place, config)


def differences(root: Path, release: Path) -> list[str]:
    """A line for each file of a release that is not installed correctly in that root: bytes, owners, modes, links."""
    place = root / install.HOME / "releases" / release.name
    made = {**install.sums(release), install.SUMS: digest_of(release / install.SUMS)}
    there = {**install.sums(place), install.SUMS: digest_of(place / install.SUMS)}
    wrong = [f"{path}: content" for path in sorted(made.keys() | there.keys()) if made.get(path) != there.get(path)]
    paths = [place, *place.rglob("*"), *(root / place for place in install.SYSTEM.values())]
    for path in paths:
        status = path.lstat()
        mode = 0o777 if path.is_symlink() else 0o755 if path.is_dir() else 0o644
        if (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) != (0, 0, mode):
            wrong.append(f"{path}: owner {status.st_uid}:{status.st_gid}, mode {stat.S_IMODE(status.st_mode):o}")
    for name, goal in install.SYSTEM.items():
        if digest_of(root / goal) != made[f"system/{name}"]:
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


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
