#!/usr/bin/python3
"""Apply the settings in firstrun.json. `make flash` has Raspberry Pi OS Bookworm run this once, as root, at first boot.

The kernel's command line names it (systemd.run=), and the system reboots when it ends. It first removes itself from
the command line, so that the system boots whatever fails. Errors are written to firstrun.log beside it.
"""

import json
import os
import pwd
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

BOOT = Path(__file__).resolve().parent
NETWORK = """[connection]
id=preconfigured
type=wifi

[wifi]
mode=infrastructure
ssid={name}

[wifi-security]
key-mgmt=wpa-psk
psk={password}

[ipv4]
method=auto

[ipv6]
method=auto
"""


def forget() -> dict[str, Any]:
    """Read and remove the settings, and remove this program from the kernel's command line."""
    command_line = BOOT / "cmdline.txt"
    words = [word for word in command_line.read_text().split() if not word.startswith(("systemd.run", "systemd.unit="))]
    new = command_line.with_suffix(".new")
    new.write_text(" ".join(words) + "\n")
    with open(new) as file:
        os.fsync(file.fileno())
    new.replace(command_line)
    path = BOOT / "firstrun.json"
    settings: dict[str, Any] = json.loads(path.read_text())
    path.unlink()
    return settings


def hostname(name: str) -> None:
    hosts = Path("/etc/hosts")
    lines = [line for line in hosts.read_text().splitlines() if not line.startswith("127.0.1.1")]
    hosts.write_text("\n".join([*lines, f"127.0.1.1\t{name}"]) + "\n")
    Path("/etc/hostname").write_text(f"{name}\n")


def user(settings: dict[str, str]) -> None:
    """Rename the image's first user, or make a user where there is none."""
    name = settings["name"]
    first = next((one for one in pwd.getpwall() if one.pw_uid == 1000), None)
    if first is None:
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", "--groups", "sudo,audio", name], check=True)
    elif first.pw_name != name:
        home = f"/home/{name}"
        subprocess.run(["usermod", "--login", name, "--move-home", "--home", home, first.pw_name], check=True)
        subprocess.run(["groupmod", "--new-name", name, first.pw_name], check=True)
    sudoers = Path("/etc/sudoers.d/010_pi-nopasswd")
    sudoers.write_text(f"{name} ALL=(ALL) NOPASSWD: ALL\n")
    sudoers.chmod(0o440)
    if "password" in settings:
        subprocess.run(["chpasswd", "--encrypted"], input=f"{name}:{settings['password']}\n", text=True, check=True)
    if "ssh-key" in settings:
        entry = pwd.getpwnam(name)
        folder = Path(entry.pw_dir, ".ssh")
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "authorized_keys").write_text(f"{settings['ssh-key']}\n")
        (folder / "authorized_keys").chmod(0o600)
        for path in (folder, folder / "authorized_keys"):
            os.chown(path, entry.pw_uid, entry.pw_gid)
    subprocess.run(["systemctl", "enable", "ssh"], check=True)
    if shutil.which("cancel-rename"):  # stop asking for a user at first boot
        subprocess.run(["cancel-rename", name], check=True)


def wifi(settings: dict[str, str]) -> None:
    path = Path("/etc/NetworkManager/system-connections/preconfigured.nmconnection")
    # A keyfile takes a name as text or as bytes (65;66;), which need no escapes.
    name = "".join(f"{byte};" for byte in settings["name"].encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    path.write_text(NETWORK.format(name=name, password=settings["password"]))
    for switch in Path("/var/lib/systemd/rfkill").glob("*:wlan"):  # Wi-Fi is off until a country is set
        switch.write_text("0\n")


def keyboard(settings: dict[str, str]) -> None:
    path = Path("/etc/default/keyboard")
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if not line.startswith("XKBLAYOUT")]
    path.write_text("\n".join([*kept, f'XKBLAYOUT="{settings["layout"]}"']) + "\n")


STEPS: dict[str, Callable[[Any], None]] = {"hostname": hostname, "user": user, "wifi": wifi, "keyboard": keyboard}


def main() -> int:
    settings = forget()
    failed = []
    for name, step in STEPS.items():
        try:
            if name in settings:
                step(settings[name])
        except Exception:  # go on: the other settings may succeed
            failed.append(traceback.format_exc())
    if failed:
        (BOOT / "firstrun.log").write_text("".join(failed))
    Path(__file__).unlink()
    os.sync()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
