"""Images laid out as Raspberry Pi OS is, and what comes onto them; cards that may be erased, and what may not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from device import BOOT, KEY, ROOT, SETTINGS, needs_disks, pi_image, small_root

from edge_demo.deploy import disk, first_boot, flash, payload
from edge_demo.deploy.card import check_device, write
from edge_demo.deploy.command import DeployError
from edge_demo.deploy.settings import read_settings
from runtime.options import read_config


@pytest.fixture
def release(small_site, toy) -> Path:
    return payload.build("3.13", [toy])


# The settings


def test_secrets_are_hashed(settings):
    told = read_settings(settings)
    hashed = told["user"]["password"]
    check = subprocess.run(["openssl", "passwd", "-6", "-salt", hashed.split("$")[2], "-stdin"], input="correct horse",
                           capture_output=True, text=True, check=True)
    assert check.stdout.strip() == hashed
    assert re.fullmatch("[0-9a-f]{64}", told["wifi"]["password"])
    assert "horse" not in json.dumps(told) and "staple" not in json.dumps(told)


def test_wifi_key_is_that_of_the_standard(settings):
    """IEEE 802.11i-2004, H.4.3: its second test vector."""
    settings.write_text('[wifi]\nname = "ThisIsASSID"\npassword = "ThisIsAPassword"\ncountry = "DE"\n')
    assert read_settings(settings)["wifi"]["password"] == (
        "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af")


@pytest.mark.parametrize(("old", "new", "message"), [
    ("hostname", "hostnam", "unknown key 'hostnam': there are hostname"),
    ('layout = "de"', 'layuot = "de"', "unknown key 'layuot': keyboard has layout"),
    ('"kitchen"', '"Kitchen!"', "is no name"),
    ('"anna"', '"root"', "is the system's"),
    ('"DE"', '"Germany"', "two capital letters"),
    ('"battery staple"', '"short"', "8 to 63"),
    ('country = "DE"', "", r"\[wifi\] needs country"),
    ('"de"', "7", "must be a text"),
    ("[user]", "[user", "not TOML"),
    (KEY, "/nowhere/key.pub", "cannot be read"),
])
def test_mistakes_in_settings_are_told(settings, old, new, message):
    settings.write_text(SETTINGS.replace(old, new))
    with pytest.raises(DeployError, match=message):
        read_settings(settings)


def test_settings_that_others_may_read_are_refused(settings):
    settings.chmod(0o644)
    with pytest.raises(DeployError, match="chmod 600"):
        read_settings(settings)


def test_a_private_key_stays_here(settings, tmp_path):
    (tmp_path / "key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    settings.write_text(f'[user]\nname = "anna"\nssh-key = "{tmp_path / "key"}"\n')
    with pytest.raises(DeployError, match="private"):
        read_settings(settings)


# Images


@needs_disks
def test_bookworm_gets_the_payload_and_a_program_to_run_once(tmp_path, release, toy, settings):
    image = pi_image(tmp_path / "os.img", small_root(tmp_path / "root"), BOOT, 24)
    flash.put(image, [toy], None, read_settings(settings))
    firmware, root = disk.partitions(image)
    with disk.mounted(image, root, "ro") as system:
        assert payload.differences(system, release) == []
        assert "earshot" in (system / "etc/group").read_text().split("audio:")[1].splitlines()[0]
    boot = {name: disk.fat_read(image, firmware, name) for name in (*BOOT, "firstrun.json", "firstrun.py", "user-data")}
    words = boot["cmdline.txt"].split()
    assert words[:6] == BOOT["cmdline.txt"].split() and "cfg80211.ieee80211_regdom=DE" in words
    assert "systemd.run=/boot/firmware/firstrun.py" in words
    assert boot["config.txt"] == BOOT["config.txt"] and boot["user-data"] is None
    assert json.loads(boot["firstrun.json"])["hostname"] == "kitchen"
    assert boot["firstrun.py"] == first_boot.FIRSTRUN.read_text()


@needs_disks
def test_trixie_gets_the_payload_and_cloud_inits_files(tmp_path, release, toy, settings):
    folder = small_root(tmp_path / "root")
    (folder / "usr/bin/cloud-init").touch()
    image = pi_image(tmp_path / "os.img", folder, BOOT, 24)
    flash.put(image, [toy], None, read_settings(settings))
    firmware, root = disk.partitions(image)
    with disk.mounted(image, root, "ro") as system:
        assert payload.differences(system, release) == []
    head, _, body = disk.fat_read(image, firmware, "user-data").partition("\n")
    assert head == "#cloud-config" and json.loads(body)["users"][0]["name"] == "anna"
    network = json.loads(disk.fat_read(image, firmware, "network-config"))
    assert 'home "5" GHz' in network["wifis"]["wlan0"]["access-points"]
    assert disk.fat_read(image, firmware, "firstrun.py") is None
    assert "systemd.run" not in disk.fat_read(image, firmware, "cmdline.txt")


@needs_disks
def test_a_payload_that_was_changed_is_told(tmp_path, release):
    root = small_root(tmp_path / "root")
    payload.into(root, release, None)
    assert payload.differences(root, release) == []
    place = root / "opt/earshot/releases" / release.name
    (place / "runtime/listen.py").chmod(0o666)
    (place / "runtime/more.py").touch()
    os.chown(place / "runtime/audio/hops.py", 1000, 1000)
    (root / "etc/systemd/system/earshot.service").write_text("")
    (root / "var/lib/earshot/earshot.toml").chmod(0o644)
    assert len(payload.differences(root, release)) == 5


@needs_disks
def test_a_full_root_is_grown(tmp_path, release, toy):
    folder = small_root(tmp_path / "root")
    (folder / "ballast").write_bytes(os.urandom(18 << 20))
    image = pi_image(tmp_path / "os.img", folder, BOOT, 24)
    before = image.stat().st_size
    flash.put(image, [toy], None, None)
    with disk.mounted(image, disk.partitions(image)[1], "ro") as system:
        assert payload.differences(system, release) == []
        assert (system / "ballast").stat().st_size == 18 << 20
    assert image.stat().st_size > before


@needs_disks
def test_the_given_configuration_goes_with_its_secrets(tmp_path, release, toy):
    config = tmp_path / "mine" / "earshot.toml"
    config.parent.mkdir()
    config.write_text(f'bundle = ["/opt/earshot/current/bundles/{toy.name}"]\nthreshold = 0.4\n'
                      'dashboard = "0.0.0.0:8765"\ndashboard-token-file = "token"\n')
    (config.parent / "token").write_text("0123456789abcdef\n")
    image = pi_image(tmp_path / "os.img", small_root(tmp_path / "root"), BOOT, 24)
    flash.put(image, [toy], config, None)
    with disk.mounted(image, disk.partitions(image)[1], "ro") as system:
        for name in ("earshot.toml", "token"):
            path = system / "var/lib/earshot" / name
            assert path.read_text() == (config.parent / name).read_text() and path.stat().st_mode & 0o777 == 0o600
        assert payload.differences(system, release) == []


def test_the_configuration_that_nobody_gave_has_a_token(release):
    assert read_config(str(release / "system" / "earshot.toml"))["dashboard-token-file"].endswith("dashboard-token")


def test_a_token_that_the_device_is_to_make(tmp_path):
    config = tmp_path / "mine" / "earshot.toml"
    config.parent.mkdir()
    config.write_text('bundle = ["/opt/earshot/current/bundles/happy-base"]\ndashboard = 8765\n'
                      'dashboard-token-file = "token"\n')
    (tmp_path / "device").mkdir()
    payload.config_folder(config, [Path("happy-base")], tmp_path / "device")
    assert [path.name for path in (tmp_path / "device").iterdir()] == ["earshot.toml"]


@pytest.mark.parametrize(("text", "message"), [
    ('bundle = ["/opt/other"]\n', "must name the deployed bundles"),
    ("", "must name the deployed bundles"),
    ("treshold = 0.4\n", "did you mean 'threshold'"),
])
def test_a_configuration_that_cannot_work_is_refused(tmp_path, text, message):
    (tmp_path / "earshot.toml").write_text(text)
    with pytest.raises(DeployError, match=message):
        payload.config_folder(tmp_path / "earshot.toml", [Path("happy-base")], tmp_path)


@needs_disks
def test_no_image_leaves_one_line_and_no_file(tmp_path, toy):
    (tmp_path / "os.img").write_bytes(b"no image" * 1000)
    command = [sys.executable, "-m", "edge_demo.deploy.flash", "--image", tmp_path / "os.img",
               "--out", tmp_path / "out.img"]
    process = subprocess.run([*command, toy], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert process.stderr.startswith("flash: error:") and "give an unpacked .img" in process.stderr
    assert sorted(path.name for path in tmp_path.glob("*.img")) == ["os.img"] and not list(tmp_path.glob(".flash*"))


# Cards


@pytest.fixture
def card(tmp_path):
    """A disk of 32 MB that is a file."""
    path = tmp_path / "card"
    with open(path, "wb") as file:
        file.truncate(32 << 20)
    device = disk.run("losetup", "--find", "--show", path).strip()
    yield Path(device)
    disk.run("losetup", "--detach", device)


@needs_disks
def test_what_is_not_removable_is_named_again_or_refused(card):
    for forced in (None, "sdb"):
        with pytest.raises(DeployError, match=f"is not removable: .*FORCE={card.name}"):
            check_device(card, forced)
    assert check_device(card, card.name).endswith("0.0 GB")


@needs_disks
def test_what_is_mounted_is_refused_whatever_is_forced(card, tmp_path):
    disk.run("mke2fs", "-q", "-t", "ext4", card)
    (tmp_path / "there").mkdir()
    disk.run("mount", card, tmp_path / "there")
    try:
        with pytest.raises(DeployError, match=f"is mounted on {tmp_path / 'there'}"):
            check_device(card, card.name)
        with pytest.raises(DeployError, match="busy"):
            write(tmp_path / "card", card)
    finally:
        disk.run("umount", tmp_path / "there")


def test_this_machines_own_disk_is_refused():
    """Whatever it is: mounted, in use, no removable one, or not there to be seen."""
    source = subprocess.run(["findmnt", "-no", "SOURCE", "/"], capture_output=True, text=True).stdout.strip()
    with pytest.raises(DeployError):
        check_device(Path(source or "/nowhere"), Path(source).name)


@pytest.mark.parametrize(("path", "message"), [
    ("/dev/null", "is no disk"), ("/nowhere", "lsblk"), ("/etc/passwd", "OUT=")])
def test_what_is_no_disk_is_refused(path, message):
    with pytest.raises(DeployError, match=message):
        check_device(Path(path), None)


@needs_disks
def test_a_card_is_written_and_read_back(card, tmp_path, capsys):
    image = tmp_path / "image"
    image.write_bytes(os.urandom(9 << 20))
    write(image, card)
    assert card.open("rb").read(9 << 20) == image.read_bytes()
    err = capsys.readouterr().err
    assert "writing: 100%" in err and "verifying: 100%" in err
    with open(tmp_path / "large", "wb") as file:
        file.truncate(33 << 20)
    with pytest.raises(DeployError, match="take a larger card"):
        write(tmp_path / "large", card)


@needs_disks
def test_a_card_that_forgets_is_told(card, tmp_path, monkeypatch):
    """It takes everything, and gives back zeros from 4 MB on, as a fake of a larger size does."""
    image = tmp_path / "image"
    image.write_bytes(os.urandom(9 << 20))
    fsync = os.fsync

    def forget(handle: int) -> None:
        fsync(handle)
        os.pwrite(handle, bytes(4 << 20), 4 << 20)

    monkeypatch.setattr(os, "fsync", forget)
    with pytest.raises(DeployError, match="other bytes"):
        write(image, card)
