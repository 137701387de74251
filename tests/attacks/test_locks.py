"""What is installed is what was locked: versions with SHA-256, for the desk (requirements.lock), the device
(runtime/requirements.lock), the peers and what renews the locks, and a registry that gives out something else.
"""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path

import pip
import pytest
from packaging.requirements import Requirement
from weaken import weaken

from edge_demo.deploy import arm64
from edge_demo.deploy.command import DeployError

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "runtime/requirements.lock", "edge_demo/bench/peers.lock", "make.lock")
ENTRY = re.compile(r"^([^ #\n].*?) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)(?:    #.*\n)*", re.MULTILINE)


def locked(lock: str) -> dict[str, Requirement]:
    """By name; each entry has to be a version, and hashes."""
    text = (ROOT / lock).read_text()
    rest = ENTRY.sub("", text)
    assert all(line.startswith("#") for line in rest.splitlines()), rest
    found = [Requirement(entry[1]) for entry in ENTRY.finditer(text)]
    assert len({one.name for one in found}) == len(found)  # one version for every Python and processor
    return {one.name: one for one in found}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_a_version_and_hashes_of_each_and_names_no_registry(lock):
    for one in locked(lock).values():
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(one.specifier))
    assert not re.search(r"https?:|index-url|find-links|file:", (ROOT / lock).read_text())


@pytest.mark.parametrize(("requirements", "lock"), [
    ("requirements.txt", "requirements.lock"), ("runtime/requirements.txt", "runtime/requirements.lock")])
def test_a_lock_is_what_the_requirements_ask_for(requirements, lock):
    found = locked(lock)
    lines = (line.split("#")[0].strip() for line in (ROOT / requirements).read_text().splitlines())
    for wanted in map(Requirement, filter(None, lines)):
        version = str(found[wanted.name].specifier).removeprefix("==")
        assert version in wanted.specifier, f"{wanted} is not {version}: make lock"


def test_the_device_has_the_desks_versions():
    desk = locked("requirements.lock")
    for name, one in locked("runtime/requirements.lock").items():
        assert one.specifier == desk[name].specifier
    assert {arm64.locked_packages().count(f"{name}==") for name in arm64.PACKAGES} == {1}


# A registry that gives out something else


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> str:
    """Puts it there → its entry for a lock."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {**files, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    sums = [(one, base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("="))
            for one, text in files.items()]
    files[f"{info}/RECORD"] = "".join(f"{one},sha256={digest},\n" for one, digest in sums)
    with zipfile.ZipFile(path, "w") as file:
        for one, text in files.items():
            file.writestr(one, text)
    return entry(path, name, version)


def entry(path: Path, name: str, version: str) -> str:
    return f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("CONFIG_FILE", "/dev/null"), ("NO_INDEX", "1"), ("FIND_LINKS", str(tmp_path / "registry"))):
        monkeypatch.setenv(f"PIP_{name}", value)
    return tmp_path / "registry"


def test_the_device_gets_what_was_locked_and_nothing_else(registry, tmp_path):
    soxr = wheel(registry, "soxr", "1.0", {"soxr.py": "good"})
    arm64.add_wheels("3.13", soxr, tmp_path / "good")
    assert (tmp_path / "good/soxr.py").read_text() == "good"

    wheel(registry, "soxr", "1.0", {"soxr.py": "evil"})
    with pytest.raises(DeployError, match="wheels for Python 3.13 on arm64"):
        arm64.add_wheels("3.13", soxr, tmp_path / "evil")
    with pytest.raises(DeployError):  # an entry that lost its hash does not get by either
        arm64.add_wheels("3.13", "soxr==1.0\n", tmp_path / "evil")
    assert not (tmp_path / "evil/soxr.py").exists()
    weak = weaken("edge_demo/deploy/arm64.py", ('"--require-hashes", ', ""))
    weak.add_wheels("3.13", "soxr==1.0\n", tmp_path / "weak")
    assert (tmp_path / "weak/soxr.py").read_text() == "evil"


def test_what_renews_the_locks_was_locked_too(registry, tmp_path):
    """It sees whatever the registry has, and writes down what is installed from then on."""
    mark = tmp_path / "evil uv"
    lock = wheel(registry, "uv", "1.0", {"uv.py": "good"})
    wheel(registry, "uv", "1.0", {
        "uv.py": f"def main():\n    open({str(mark)!r}, 'w')\n",
        "uv-1.0.dist-info/entry_points.txt": "[console_scripts]\nuv = uv:main\n"})
    (tmp_path / "make.lock").write_text(lock)
    makefile, mend = (ROOT / "Makefile").read_text(), "--quiet --require-hashes --requirement make.lock"
    assert makefile.count(mend) == 1
    for text, is_run in ((makefile, False), (makefile.replace(mend, "--quiet uv"), True)):
        (tmp_path / "Makefile").write_text(text)
        subprocess.run(["make", "lock"], cwd=tmp_path)
        assert mark.exists() == is_run


class Desk:
    """A folder with the Makefile, a lock, and a .venv with nothing but pip."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for program in ("dpkg", "cc"):  # no package manager; and PortAudio's header is there
            path = folder / "bin" / program
            path.parent.mkdir(exist_ok=True)
            path.write_text("#!/bin/sh\n")
            path.chmod(0o755)
        venv.create(folder / ".venv", symlinks=True)
        self.packages = next((folder / ".venv/lib").glob("python*")) / "site-packages"
        (self.packages / "pip").symlink_to(Path(pip.__file__).parent)

    def ready(self, lock: str, *changes: tuple[str, str]) -> bool:
        """Whether `make .venv/ready` installs it, with pieces of the Makefile replaced."""
        makefile = (ROOT / "Makefile").read_text()
        for old, new in changes:
            assert makefile.count(old) == 1
            makefile = makefile.replace(old, new)
        (self.folder / "Makefile").write_text(makefile)
        (self.folder / "requirements.lock").write_text(f"# locked\n{lock}")
        environment = {**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        process = subprocess.run(["make", "--always-make", ".venv/ready"], cwd=self.folder, env=environment)
        return process.returncode == 0


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_the_desk_gets_what_was_locked_and_nothing_else(registry, desk):
    lock = "".join(wheel(registry, name, "1.0", {f"{name}.py": "good"}) for name in ("setuptools", "soxr"))
    wheel(registry, "soxr", "1.0", {"soxr.py": "evil"})
    assert not desk.ready(lock) and not desk.ready(re.sub(r" \\\n.*", "", lock))
    assert not (desk.packages / "soxr.py").exists()
    assert desk.ready(re.sub(r" \\\n.*", "", lock), ("--quiet --require-hashes\n", "--quiet\n"))
    assert (desk.packages / "soxr.py").read_text() == "evil"


def test_a_cpu_build_of_torch_stays_and_no_cuda_comes(registry, desk):
    lock = "".join(wheel(registry, name, "1.0", {f"{name}.py": ""}) for name in ("setuptools", "torchaudio"))
    for name in ("cuda-toolkit", "nvidia-cublas", "torch", "triton"):
        lock += f"{name}==2.14.1 ; sys_platform == 'linux' \\\n    --hash=sha256:{'0' * 64}\n    # via torch\n"
    for version, is_kept in (("2.14.0+cpu", False), ("2.14.1+cpu", True)):
        wheel(registry, "torch", version, {"torch.py": version})
        install = [desk.folder / ".venv/bin/python", "-m", "pip", "install", "--quiet", f"torch=={version}"]
        subprocess.run(install, check=True)
        assert desk.ready(lock) == is_kept  # what else is wanted is not to be had
    assert (desk.packages / "torch.py").read_text() == "2.14.1+cpu" and (desk.packages / "torchaudio.py").exists()


BUILDER = """
import pathlib, zipfile
def build_wheel(folder, *_):
    pathlib.Path({mark!r}).touch()
    with zipfile.ZipFile(pathlib.Path(folder, "pico-1.0-py3-none-any.whl"), "w") as file:
        file.writestr("pico-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: pico\\nVersion: 1.0\\n")
        file.writestr("pico-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        file.writestr("pico-1.0.dist-info/RECORD", "")
    return "pico-1.0-py3-none-any.whl"
"""


def test_what_builds_a_source_distribution_was_locked_too(registry, desk):
    """pip would fetch the newest setuptools for it, whatever that is, and run it."""
    lock = ""
    for version, mark in (("2.0", "evil"), ("1.0", "good")):
        builder = BUILDER.format(mark=str(desk.folder / mark))
        lock = wheel(registry, "setuptools", version, {"setuptools/build_meta.py": builder})
    (desk.folder / "pico-1.0").mkdir()
    (desk.folder / "pico-1.0/pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n')
    with tarfile.open(registry / "pico-1.0.tar.gz", "w:gz") as archive:
        archive.add(desk.folder / "pico-1.0", "pico-1.0")
    lock += entry(registry / "pico-1.0.tar.gz", "pico", "1.0")
    assert desk.ready(lock)
    assert (desk.folder / "good").exists() and not (desk.folder / "evil").exists()
    shutil.rmtree(desk.packages / "pico-1.0.dist-info")
    assert desk.ready(lock, ("--no-build-isolation ", "--no-cache-dir "))
    assert (desk.folder / "evil").exists()
