"""What happens at the first boot, done in emulated arm64 systems: firstrun.py on Bookworm, cloud-init on Trixie.

No Raspberry Pi OS image can be had here. Bookworm's root is Debian's, with the first user that Pi OS has; Trixie's is
that of `make image`, whose cloud-init is Debian's as Pi OS's is.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from device import BOOT, KEY, chroot

from edge_demo.deploy import disk, first_boot, image
from edge_demo.deploy.settings import read_settings

MISSING = [name for name in ("mmdebstrap", "qemu-aarch64-static") if shutil.which(name) is None]
if not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
    MISSING.append("qemu-aarch64 in binfmt_misc")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING) or os.geteuid() != 0,
                       reason=f"emulated systems need {', '.join(MISSING) or 'root'}: sudo make image-system"),
]


@pytest.fixture(scope="session")
def untouched(tmp_path_factory) -> Path:
    """Debian's Bookworm with the programs that firstrun.py calls, and the user of Raspberry Pi OS."""
    root = tmp_path_factory.mktemp("bookworm") / "root"
    disk.run("mmdebstrap", "--quiet", "--mode=root", "--variant=essential", "--architectures=arm64",
             "--include=python3,passwd,systemd,openssh-server", "bookworm", root)
    chroot(root, "useradd", "--create-home", "--uid=1000", "--shell=/bin/bash", "pi")
    for folder in ("etc/sudoers.d", "boot/firmware", "var/lib/systemd/rfkill"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "var/lib/systemd/rfkill/platform-soc:wlan").write_text("1\n")
    (root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n127.0.1.1\traspberrypi\n")
    for name, text in BOOT.items():
        (root / "boot/firmware" / name).write_text(text)
    return root


@pytest.fixture
def bookworm(untouched, tmp_path) -> Path:
    root = tmp_path / "root"
    disk.run("cp", "-a", untouched, root)
    return root


def check_user(root: Path) -> None:
    """anna can log in, by password and key, and may do what the first user may."""
    passwd = (root / "etc/passwd").read_text()
    assert re.search(r"^anna:x:1000:\d+:.*:/home/anna:/bin/bash$", passwd, re.MULTILINE) and "\npi:" not in passwd
    shadow = next(line for line in (root / "etc/shadow").read_text().splitlines() if line.startswith("anna:"))
    hashed = shadow.split(":")[1]
    again = disk.run("openssl", "passwd", "-6", "-salt", hashed.split("$")[2], "-stdin", text="correct horse").strip()
    assert again == hashed
    keys = root / "home/anna/.ssh/authorized_keys"
    assert KEY in keys.read_text()
    assert keys.stat().st_mode & 0o777 == 0o600 and keys.stat().st_uid == keys.parent.stat().st_uid == 1000
    assert any("anna ALL=(ALL) NOPASSWD" in path.read_text() for path in (root / "etc/sudoers.d").iterdir())
    assert (root / "etc/systemd/system/multi-user.target.wants/ssh.service").is_symlink()


def test_bookworms_firstrun(bookworm, settings):
    boot = bookworm / "boot/firmware"
    told = read_settings(settings)
    (boot / "firstrun.json").write_text(json.dumps(told))
    shutil.copyfile(first_boot.FIRSTRUN, boot / "firstrun.py")
    (boot / "firstrun.py").chmod(0o755)
    (boot / "cmdline.txt").write_text(first_boot.append(BOOT["cmdline.txt"], first_boot.RUN_ONCE))

    process = chroot(bookworm, "/boot/firmware/firstrun.py")  # which is what the kernel's command line has systemd run
    log = boot / "firstrun.log"
    assert process.returncode == 0, log.read_text() if log.exists() else process.stderr
    assert sorted(path.name for path in boot.iterdir()) == ["cmdline.txt", "config.txt"]
    assert (boot / "cmdline.txt").read_text().split() == BOOT["cmdline.txt"].split()
    assert (bookworm / "etc/hostname").read_text() == "kitchen\n"
    assert "127.0.1.1\tkitchen" in (bookworm / "etc/hosts").read_text()
    check_user(bookworm)
    network = bookworm / "etc/NetworkManager/system-connections/preconfigured.nmconnection"
    assert network.stat().st_mode & 0o777 == 0o600 and f"psk={told['wifi']['password']}\n" in network.read_text()
    assert "ssid=" + "".join(f"{byte};" for byte in b'home "5" GHz') in network.read_text()
    assert (bookworm / "var/lib/systemd/rfkill/platform-soc:wlan").read_text() == "0\n"
    assert 'XKBLAYOUT="de"' in (bookworm / "etc/default/keyboard").read_text()


def test_a_step_that_fails_keeps_no_other_from_being_done(bookworm, settings):
    boot = bookworm / "boot/firmware"
    (boot / "firstrun.json").write_text(json.dumps(read_settings(settings)))
    shutil.copyfile(first_boot.FIRSTRUN, boot / "firstrun.py")
    (bookworm / "etc/hosts").unlink()
    process = chroot(bookworm, "/usr/bin/python3", "/boot/firmware/firstrun.py")
    assert process.returncode == 1 and "FileNotFoundError" in (boot / "firstrun.log").read_text()
    check_user(bookworm)


def test_trixies_cloud_init(tmp_path, settings):
    root = tmp_path / "root"
    disk.run("cp", "-a", image.debian(), root)
    for name, text in image.FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "etc/cloud/cloud-init.disabled").unlink()
    (root / "boot/firmware").mkdir(exist_ok=True)
    told = read_settings(settings)
    for name, text in first_boot.cloud_init(told).items():
        (root / "boot/firmware" / name).write_text(text)
    schema = chroot(root, "cloud-init", "schema", "--config-file", "/boot/firmware/user-data")
    assert schema.returncode == 0, schema.stdout + schema.stderr
    secrets = {"user-data", "network-config"}
    disk.run("mount", "--bind", "/proc", root / "proc")
    try:
        for stage in (("init", "--local"), ("init",), ("modules", "--mode=config"), ("modules", "--mode=final")):
            assert secrets <= {path.name for path in (root / "boot/firmware").iterdir()}
            process = chroot(root, "cloud-init", *stage)
            assert "Traceback" not in process.stdout + process.stderr, process.stderr
    finally:
        disk.run("umount", root / "proc")
    assert not secrets & {path.name for path in (root / "boot/firmware").iterdir()}
    assert (root / "etc/cloud/cloud-init.disabled").exists()
    check_user(root)
    assert (root / "etc/hostname").read_text().strip() == "kitchen"
    assert 'XKBLAYOUT="de"' in (root / "etc/default/keyboard").read_text()


def test_netplan_takes_the_network(tmp_path, settings):
    """As cloud-init gives it to netplan on Raspberry Pi OS, which makes NetworkManager's file of it."""
    if shutil.which("netplan") is None:
        pytest.skip("netplan is not installed: apt-get install netplan.io")
    folder = tmp_path / "etc/netplan"
    folder.mkdir(parents=True)
    told = read_settings(settings)
    network = json.loads(first_boot.cloud_init(told)["network-config"])
    (folder / "50-cloud-init.yaml").write_text(json.dumps({"network": {**network, "renderer": "NetworkManager"}}))
    (folder / "50-cloud-init.yaml").chmod(0o600)
    subprocess.run(["netplan", "generate", "--root-dir", tmp_path], check=True)
    made = "".join(path.read_text() for path in (tmp_path / "run/NetworkManager").rglob("*wlan0*"))
    assert told["wifi"]["password"] in made and 'home "5" GHz' in made
