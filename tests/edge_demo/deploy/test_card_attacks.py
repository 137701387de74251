"""Settings that would leave a secret where others read it, or a system that nobody can log in to; who reads a card."""

import json
import os
import pwd
import stat
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from device import KEY, SETTINGS, needs_disks, pi_image, small_root
from weaken import weaken

from edge_demo.deploy import disk, first_boot, flash, image, settings
from edge_demo.deploy.command import DeployError

HASHES = (
    "$5$rounds=5000$salt$" + "a" * 43,
    "$6$saltsalt$" + "./" * 43,
    "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$" + "A" * 43,
    "$2b$12$" + "b" * 53,
)


@pytest.fixture
def told(tmp_path: Path) -> Path:
    path = tmp_path / "told.toml"
    path.touch(0o600)
    path.write_text(SETTINGS)
    return path


@pytest.mark.parametrize("password", [
    "$ecret horse", "$6$correct horse", "$6$saltsalt$" + "x" * 85, "$y$", "$1$a$b", HASHES[1] + "!"])
def test_a_password_that_begins_with_a_dollar_is_hashed(told, password):
    told.write_text(SETTINGS.replace("correct horse", password))
    hashed = settings.read_settings(told)["user"]["password"]
    salt = hashed.split("$")[2]
    again = disk.run("openssl", "passwd", "-6", "-salt", salt, "-stdin", text=password).strip()
    assert hashed == again != password
    weak = weaken("edge_demo/deploy/settings.py",
                  ('not CRYPT.fullmatch(user["password"])', 'user["password"][0] != "$"'))
    assert weak.read_settings(told)["user"]["password"] == password  # in clear text on the card


@pytest.mark.parametrize("kind", ["-5", "-6"])
def test_a_hash_is_taken_as_it_is(told, kind):
    for hashed in (*HASHES, disk.run("openssl", "passwd", kind, "secret").strip()):
        told.write_text(SETTINGS.replace("correct horse", hashed))
        assert settings.read_settings(told)["user"]["password"] == hashed


ANY_KEY = ('if not is_key(user["ssh-key"])', "if False")
DEEP = "deep = " + "[" * 100_000
MISTAKES = {
    "a name of Wi-Fi of 33 bytes": ('home "5" GHz', "ü" * 16 + "x", "32 bytes at most", (
        'len(wifi["name"].encode()) > LONGEST_SSID', "False")),
    "a user of 33 characters": ('"anna"', f'"{"a" * 33}"', "32 characters at most", (
        "len(user) > LONGEST_USER", "False")),
    "no key": (KEY, "ssh-ed25519 AAAA anna", "is no public key", ANY_KEY),
    "half a key": (KEY, KEY[:50], "is no public key", ANY_KEY),
    "a file that holds no key": (KEY, "/etc/hostname", "is no public key", ANY_KEY),
    "somebody's home who is not there": (KEY, "~nosuchuser/key.pub", "cannot be read", (", RuntimeError)", ")")),
    "deep TOML": ("[user]", DEEP, "not TOML", ("(ValueError, RecursionError)", "ValueError")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_settings_that_cannot_work_are_refused(told, mistake):
    old, new, message, change = MISTAKES[mistake]
    told.write_text(SETTINGS.replace(old, new))
    with pytest.raises(DeployError, match=message) as caught:
        settings.read_settings(told)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    weak = weaken("edge_demo/deploy/settings.py", change)
    if "Error" in change[0]:
        with pytest.raises(RuntimeError):  # a traceback for the user; RecursionError is one
            weak.read_settings(told)
    else:
        assert weak.read_settings(told)


def test_the_key_is_that_of_whoever_called_sudo(tmp_path, told, monkeypatch):
    """And not root's, who could log in then, and they could not."""
    keys = {name: KEY.replace("anna", f"{name} at home") for name in ("anna", "root")}
    for name, key in keys.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "key.pub").write_text(f"{key}\n")
    homes = {name: types.SimpleNamespace(pw_dir=str(tmp_path / name)) for name in keys}
    monkeypatch.setattr(pwd, "getpwnam", homes.__getitem__)
    monkeypatch.setenv("HOME", str(tmp_path / "root"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    told.write_text(SETTINGS.replace(KEY, "~/key.pub"))

    def key(module: Any = settings) -> str:
        return module.read_settings(told)["user"]["ssh-key"]

    assert key() == keys["root"]
    monkeypatch.setenv("SUDO_USER", "anna")
    assert key() == keys["anna"]
    assert key(weaken("edge_demo/deploy/settings.py", ("if caller and", "if False and"))) == keys["root"]
    monkeypatch.setenv("SUDO_USER", "bert")
    with pytest.raises(DeployError, match="ssh-key ~/key.pub cannot be read"):
        key()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # who may call themselves what they like
    assert key() == keys["root"]


@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_a_key_without_end_is_not_waited_for(tmp_path, told, name):
    os.mkfifo(tmp_path / "pipe")
    told.write_text(SETTINGS.replace(KEY, str(tmp_path / name)))
    with pytest.raises(DeployError, match="cannot be read"):
        settings.read_settings(told)


def test_a_key_of_every_kind_is_taken(tmp_path):
    for kind in ("ed25519", "rsa", "ecdsa"):
        path = tmp_path / kind
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "anna at home", "-f", path], check=True)
        assert settings.is_key(path.with_suffix(".pub").read_text().strip())
        assert not settings.is_key(path.read_text().strip())


@pytest.mark.parametrize("name", ["daemon", "audio"])
def test_users_and_groups_of_the_system_are_not_taken(tmp_path, name):
    root = small_root(tmp_path / "root")
    with (root / "etc/passwd").open("a") as file:
        file.write("daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n")
    with pytest.raises(DeployError, match=f"user {name} is the system's"):
        settings.check_user(root, {"user": {"name": name}})
    for allowed in ({"user": {"name": "pi"}}, {"user": {"name": "anna"}}, {}):
        settings.check_user(root, allowed)


# Who reads what


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """made(module, arguments …): the mode of the image that its `main` makes, of one that holds next to nothing."""

    def make(module: Any, *arguments: object) -> int:
        out = tmp_path / "out.img"
        monkeypatch.setattr(sys, "argv", ["", *map(str, arguments), "--out", str(out)])
        monkeypatch.setattr(flash if module.__name__.endswith("image") else module, "put", lambda *_: None)
        before = os.umask(0o022)
        try:
            assert module.main() == 0
        finally:
            os.umask(before)
        mode = stat.S_IMODE(out.stat().st_mode)
        out.unlink()
        return mode

    return make


def test_a_card_that_holds_secrets_is_its_makers(tmp_path, told, made):
    source = tmp_path / "os.img"
    source.write_bytes(b"no secrets")
    given = "--image", source
    assert made(flash, *given, "--settings", told) == made(flash, *given, "--config", "earshot.toml") == 0o600
    assert made(flash, *given) == 0o644
    weak = weaken("edge_demo/deploy/flash.py", ("if settings or options.config else", "if False else"))
    assert made(weak, *given, "--settings", told) == made(weak, *given, "--config", "earshot.toml") == 0o644
    source.chmod(0o600)  # it may hold some already
    assert made(flash, *given) == 0o600


@needs_disks
def test_an_image_that_holds_secrets_is_its_makers(tmp_path, made, monkeypatch):
    source = tmp_path / "os.img"
    source.write_bytes(b"no secrets")
    monkeypatch.setattr(image, "base", lambda: source)
    assert made(image, "--config", "earshot.toml") == 0o600
    assert made(image) == 0o644
    weak = weaken("edge_demo/deploy/image.py", ("0o600 if options.config else 0o644", "0o644"))
    weak.base = lambda: source
    assert made(weak, "--config", "earshot.toml") == 0o644


def test_the_boot_partition_is_mounted_for_root_alone(tmp_path):
    before = (small_root(tmp_path / "root") / "etc/fstab").read_text()
    after = first_boot.for_root_alone(before)
    assert after == before.replace("defaults  ", "defaults,umask=0077  ")
    own = image.FSTAB.format(root="1-02")
    assert ",umask=0077 " in own.splitlines()[1]
    assert first_boot.for_root_alone(after) == after and first_boot.for_root_alone(own) == own


@needs_disks
def test_what_lies_there_is_read_by_root_alone(tmp_path):
    root = small_root(tmp_path / "root")
    card = pi_image(tmp_path / "os.img", root, {"user-data": "#cloud-config\n"}, 8)
    if subprocess.run(["modprobe", "vfat"], capture_output=True).returncode:
        pytest.skip("this kernel has no FAT")
    before = (root / "etc/fstab").read_text()
    for fstab, expected in ((before, 0), (first_boot.for_root_alone(before), 1)):
        options = fstab.splitlines()[0].split()[3]
        with disk.mounted(card, disk.partitions(card)[0], options, kind="vfat") as folder:
            process = subprocess.run(["cat", folder / "user-data"], user=65534, group=65534, capture_output=True)
            assert process.returncode == expected, fstab
            assert (folder / "user-data").read_text() == "#cloud-config\n"


def test_cloud_init_is_told_to_forget_when_it_cannot_run_again(told):
    data = json.loads(first_boot.cloud_init(settings.read_settings(told))["user-data"].partition("\n")[2])
    off, sync, remove = data["runcmd"][-3:]
    assert off == ["touch", "/etc/cloud/cloud-init.disabled"] and sync == ["sync"]
    assert remove == ["rm", "-f", "/boot/firmware/user-data", "/boot/firmware/network-config"]
