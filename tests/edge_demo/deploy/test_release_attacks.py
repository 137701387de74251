"""A stranger's bundle that is to take files of this desk along, and a release that somebody added to on its way."""

import hashlib
import json
import os
import sys
import tomllib
from pathlib import Path

import pytest
from toy import write_bundle
from weaken import weaken

from edge_demo.deploy import disk, install, payload
from edge_demo.deploy.command import DeployError
from runtime.bundle import manifest, trial

SECRET = "-----BEGIN OPENSSH PRIVATE KEY-----\n"
LISTED = ('manifest.read_manifest(str(target))["files"]', "os.listdir(place)")
READ = ("manifest.read_file(place, name, manifest.LARGEST_FILE)", 'Path(place, name).read_bytes()')
CHECKED = ("if trial.try_out(target, user=disk.lone_user()) is None:", "if False:")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "id_ed25519"
    path.touch(0o600)
    path.write_text(SECRET)
    return path


def goes_along(copy_bundle, bundle: Path, target: Path) -> bool:
    """Whether anything that goes to the device holds the secret."""
    copy_bundle(bundle, target)
    return any(SECRET in path.read_bytes().decode(errors="replace") for path in target.rglob("*") if path.is_file())


def enter(bundle: Path, name: str, content: bytes) -> None:
    """Into the manifest: whoever makes a bundle can compute a SHA-256."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_what_is_not_listed_stays_here(tmp_path, toy, key):
    (toy / "LICENSE.txt").symlink_to(key)
    (toy / "notes.txt").write_text(SECRET)
    (toy / "sub").mkdir()
    assert not goes_along(payload.copy_bundle, toy, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == sorted({"manifest.json", *os.listdir(toy)} - {
        "LICENSE.txt", "notes.txt", "sub"})
    (toy / "sub").rmdir()
    weak = weaken("edge_demo/deploy/payload.py", LISTED, READ)
    assert goes_along(weak.copy_bundle, toy, tmp_path / "weak")


def test_a_listed_link_is_not_followed(tmp_path, toy, key):
    enter(toy, "LICENSE.txt", SECRET.encode())
    (toy / "LICENSE.txt").symlink_to(key)
    with pytest.raises(DeployError, match=f"^{toy}/LICENSE.txt: not a plain file"):
        payload.copy_bundle(toy, tmp_path / "out")
    assert goes_along(weaken("edge_demo/deploy/payload.py", READ).copy_bundle, toy, tmp_path / "weak")


def test_a_folder_that_is_a_link_is_not_followed(tmp_path, toy):
    (tmp_path / "link").symlink_to(toy)
    with pytest.raises(DeployError, match="link: cannot be opened as a folder"):
        payload.copy_bundle(tmp_path / "link", tmp_path / "out")
    weak = weaken("edge_demo/deploy/payload.py", (" | os.O_NOFOLLOW", ""))
    weak.copy_bundle(tmp_path / "link", tmp_path / "weak")
    assert (tmp_path / "weak" / "manifest.json").exists()


def test_a_folder_that_is_exchanged_meanwhile_is_not_read(tmp_path, toy, monkeypatch):
    other = write_bundle(tmp_path / "other", threshold=[0.9])
    read = manifest.read_file

    def exchanging(folder: str, name: str, largest: int) -> bytes:
        content = read(folder, name, largest)
        if toy.is_dir() and not toy.is_symlink():
            toy.rename(tmp_path / "aside")
            toy.symlink_to(other)
        return content

    monkeypatch.setattr(manifest, "read_file", exchanging)
    payload.copy_bundle(toy, tmp_path / "out")
    toy.unlink()
    (tmp_path / "aside").rename(toy)
    weak = weaken("edge_demo/deploy/payload.py", ('place = f"/proc/self/fd/{opened}"', "place = str(bundle)"))
    with pytest.raises(DeployError, match="SHA-256"):  # the manifest of the one and the files of the other
        weak.copy_bundle(toy, tmp_path / "weak")


def test_a_listed_file_that_is_another_is_refused(tmp_path, toy):
    (toy / "report.md").write_text("# repart\n")
    with pytest.raises(DeployError, match=f"^{toy}/report.md: its SHA-256 is not the one"):
        payload.copy_bundle(toy, tmp_path / "out")
    weaken("edge_demo/deploy/payload.py", CHECKED).copy_bundle(toy, tmp_path / "weak")
    assert (tmp_path / "weak" / "report.md").read_text() == "# repart\n"


def test_it_is_not_root_who_loads_a_bundle(tmp_path, toy, monkeypatch):
    """tests/attacks/test_trial.py has what becomes of it then."""
    users: list[int | None] = []
    monkeypatch.setattr(trial, "try_out", lambda folder, user: users.append(user) or "tried")
    payload.copy_bundle(toy, tmp_path / "out")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    payload.copy_bundle(toy, tmp_path / "mine")
    assert users[0] in disk.USERS and users[1] is None


def test_a_bundle_that_nobody_could_try_is_refused(tmp_path, toy, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DeployError, match="cannot be tried, as /bin/false cannot be started"):
        payload.copy_bundle(toy, tmp_path / "out")


def test_names_of_folders_are_good_toml_on_the_device(tmp_path, small_site):
    bundle = write_bundle(tmp_path / 'happy 🙂 "grüße" \\')
    text = (payload.build("3.13", [bundle]) / "system" / install.CONFIG).read_text(encoding="utf-8")
    assert tomllib.loads(text)["bundle"] == [f"/opt/earshot/current/bundles/{bundle.name}"]
    weak = weaken("edge_demo/deploy/payload.py", (", ensure_ascii=False", ""))
    weak.RELEASES = tmp_path / "weak"
    text = (weak.build("3.13", [bundle]) / "system" / install.CONFIG).read_text(encoding="utf-8")
    with pytest.raises(tomllib.TOMLDecodeError, match="surrogate|scalar"):
        tomllib.loads(text)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "\udc80", "a/.."])
def test_names_that_cannot_be_printed_are_refused(tmp_path, small_site, name):
    bundle = write_bundle(tmp_path / name)
    with pytest.raises(DeployError, match="name that can be printed") as caught:
        payload.build("3.13", [bundle])
    assert str(caught.value).isprintable()


def test_a_name_of_two_lines_spoils_the_list_of_files(tmp_path, small_site):
    weak = weaken("edge_demo/deploy/payload.py", ("or not bundle.name.isprintable()", ""))
    weak.RELEASES = tmp_path / "weak"
    with pytest.raises(ValueError, match="unpack"):
        install.check_whole(weak.build("3.13", [write_bundle(tmp_path / "a\nb")]))


def test_a_link_to_a_folder_is_not_of_the_release(tmp_path, toy, small_site):
    release = payload.build("3.13", [toy])
    install.check_whole(release)
    (release / "venv/lib/python3.13/site-packages/yaml").symlink_to(tmp_path)  # a package that somebody else may write
    with pytest.raises(install.InstallError, match="1 files are not as they were made, first venv/lib/.*/yaml"):
        install.check_whole(release)
    weaken("edge_demo/deploy/install.py", ("(*names, *folders)", "names")).check_whole(release)
