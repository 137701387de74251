"""Settings for the first boot of an image, in the form that its own system reads."""

import json
import re
import uuid
from pathlib import Path
from typing import Any

from edge_demo.deploy import disk, install
from edge_demo.deploy.command import DeployError
from edge_demo.deploy.disk import Partition

FIRSTRUN = Path(__file__).with_name("firstrun.py")
RUN_ONCE = (
    "systemd.run=/boot/firmware/firstrun.py systemd.run_success_action=reboot "
    "systemd.run_failure_action=reboot systemd.unit=kernel-command-line.target"
)
GROUPS = "adm,dialout,cdrom,sudo,audio,video,plugdev,games,users,input,render,netdev,gpio,i2c,spi"


def configure(image: Path, firmware: Partition, root: Partition, settings: dict[str, Any]) -> None:
    """Write the settings to the boot partition: as cloud-init's files where the system has it (Trixie), else as a
    program that systemd runs once, named on the kernel's command line (Bookworm). Raises DeployError and InstallError.
    """
    command_line = disk.fat_read(image, firmware, "cmdline.txt")
    files: dict[str, str] = {}
    with disk.mounted(image, root) as system:
        if "wifi" in settings and not (system / "usr/sbin/NetworkManager").exists():
            raise DeployError(f"{image}: has no NetworkManager, so no Wi-Fi: leave [wifi] out, and use a cable")
        fstab = system / "etc/fstab"
        install.write(fstab, for_root_alone(install.text_of(fstab)).encode(errors="surrogateescape"), 0o644)
        if (system / "usr/bin/cloud-init").exists():
            files |= cloud_init(settings)
            (system / "etc/cloud/cloud-init.disabled").unlink(missing_ok=True)
        elif command_line is not None:
            files |= {"firstrun.json": json.dumps(settings), "firstrun.py": FIRSTRUN.read_text()}
            command_line = append(command_line, RUN_ONCE)
        else:
            raise DeployError(f"{image}: has neither cloud-init nor cmdline.txt: take Raspberry Pi OS Lite (64-bit)")
    if command_line is not None:
        if "wifi" in settings:
            command_line = append(command_line, f"cfg80211.ieee80211_regdom={settings['wifi']['country']}")
        files["cmdline.txt"] = command_line
    for name, text in files.items():
        disk.fat_write(image, firmware, name, text)


def for_root_alone(fstab: str) -> str:
    """Mount the boot partition for root alone: FAT has no modes, and secrets are there until the first boot."""
    return re.sub(r"^(\S+\s+/boot(?:/firmware)?\s+vfat\s+)(?!\S*umask)(\S+)", r"\1\2,umask=0077", fstab, flags=re.M)


def append(line: str, words: str) -> str:
    """Words at the end of the kernel's command line, in place of those with the same names."""
    names = {word.partition("=")[0] for word in words.split()}
    kept = [word for word in line.split() if word.partition("=")[0] not in names]
    return " ".join([*kept, words]) + "\n"


def cloud_init(settings: dict[str, Any]) -> dict[str, str]:
    """Settings → files by name. JSON is YAML, and escapes every character of a password."""
    secrets = [f"/boot/firmware/{name}" for name in ("user-data", "network-config")]
    # Disable it first: without user-data, cloud-init would set the system up with defaults.
    commands = [["touch", "/etc/cloud/cloud-init.disabled"], ["sync"], ["rm", "-f", *secrets]]
    user_data: dict[str, Any] = {"runcmd": commands}
    if "hostname" in settings:
        user_data |= {"hostname": settings["hostname"], "manage_etc_hosts": True}
    if "user" in settings:
        user = settings["user"]
        account: dict[str, Any] = {"name": user["name"], "groups": GROUPS, "shell": "/bin/bash"}
        account["sudo"] = "ALL=(ALL) NOPASSWD:ALL"
        if "password" in user:
            account |= {"passwd": user["password"], "lock_passwd": False}
        if "ssh-key" in user:
            account["ssh_authorized_keys"] = [user["ssh-key"]]
        user_data["users"] = [account]
        user_data["ssh_pwauth"] = "ssh-key" not in user  # with a key, no password that can be guessed
        commands.insert(0, ["systemctl", "enable", "--now", "ssh"])
    if "keyboard" in settings:
        user_data["keyboard"] = {"layout": settings["keyboard"]["layout"]}
    # A new instance-id each time: cloud-init runs once for each.
    files = {
        "user-data": "#cloud-config\n" + json.dumps(user_data, indent=1) + "\n",
        "meta-data": json.dumps({"instance-id": f"earshot-{uuid.uuid4()}"}) + "\n",
    }
    if "wifi" in settings:
        wifi = settings["wifi"]
        always: dict[str, Any] = {"dhcp4": True, "optional": True}
        access_points = {wifi["name"]: {"password": wifi["password"]}}
        wlan = always | {"regulatory-domain": wifi["country"], "access-points": access_points}
        network = {"version": 2, "ethernets": {"eth0": always}, "wifis": {"wlan0": wlan}}
        files["network-config"] = json.dumps(network, indent=1) + "\n"
    return files
