"""Settings of a new system for `make flash`: host name, user, Wi-Fi and keyboard.

A TOML file, readable by you alone:

    hostname = "kitchen"

    [user]                      # without this, Raspberry Pi OS asks at its first boot, on a screen
    name = "anna"
    password = "correct horse"  # plain, which is hashed before it goes to the card, or a hash of: openssl passwd -6
    ssh-key = "~/.ssh/id_ed25519.pub"

    [wifi]
    name = "home network"
    password = "…"              # hashed too
    country = "DE"

    [keyboard]
    layout = "de"
"""

import base64
import hashlib
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from edge_demo.deploy import install
from edge_demo.deploy.command import DeployError, run
from runtime.files import read_plain

NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
LONGEST_USER = 32  # characters: useradd's
LONGEST_SSID = 32  # bytes: IEEE 802.11's
LARGEST_KEY = 16 << 10  # bytes of its file
# crypt(5)'s SHA-256, SHA-512, yescrypt and bcrypt. Anything else is a password, also when it begins with $.
CRYPT = re.compile(
    r"\$(5\$SB{43}|6\$SB{86}|y\$B+\$B+\$B{43}|2[aby]\$\d\d\$B{53})".replace(
        "S", r"(rounds=\d{4,9}\$)?B{1,16}\$"
    ).replace("B", "[./0-9A-Za-z]")
)
KEY = re.compile(r"(ssh-\S+|ecdsa-\S+|sk-\S+) (\S+)( .*)?")
# The settings: table → key → whether it must be there.
KEYS = {
    "": {"hostname": False},
    "user": {"name": True, "password": False, "ssh-key": False},
    "wifi": {"name": True, "password": True, "country": True},
    "keyboard": {"layout": True},
}


def read_settings(path: Path) -> dict[str, Any]:
    """Tables and keys as above, checked, with passwords hashed and the key read. Raises DeployError."""
    settings = parse(path)
    try:
        for name, value in settings.items():
            check_table(name, value)
        check_names(settings)
        if "user" in settings:
            complete_user(settings["user"])
        if "wifi" in settings:
            complete_wifi(settings["wifi"])
    except DeployError as error:
        raise DeployError(f"{path}: {error}") from None
    return settings


def parse(path: Path) -> dict[str, Any]:
    """A TOML file that nobody else can read."""
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeployError(f"{path}: cannot be read ({error.strerror}): name a TOML file") from None
    except (ValueError, RecursionError) as error:
        raise DeployError(f"{path}: not TOML ({' '.join(str(error).split())}): correct it") from None
    if path.stat().st_mode & 0o077:
        raise DeployError(f"{path}: others may read it, and it holds secrets: chmod 600 {path}")
    return settings


def complete_user(user: dict[str, str]) -> None:
    """Replace the password by its hash, and the name of the key's file by the key."""
    if "password" not in user and "ssh-key" not in user:
        raise DeployError(f"user {user['name']} could not log in: give a password or an ssh-key")
    if "password" in user and not CRYPT.fullmatch(user["password"]):
        user["password"] = run("openssl", "passwd", "-6", "-stdin", text=user["password"]).strip()
    if "ssh-key" not in user:
        return
    given = user["ssh-key"]
    if not KEY.fullmatch(given):
        try:
            user["ssh-key"] = read_plain(str(at_home(given)), LARGEST_KEY)[0].decode().strip()
        except (OSError, UnicodeDecodeError, RuntimeError):  # RuntimeError: ~nobody
            raise DeployError(f"ssh-key {given} cannot be read: name a public key's file") from None
    if "PRIVATE" in user["ssh-key"]:
        raise DeployError(f"{given} is the private key, which stays here: name {given}.pub")
    if not is_key(user["ssh-key"]):
        raise DeployError(f"ssh-key {given[:80]} is no public key: name the file that ends in .pub")


def at_home(path: str) -> Path:
    """~ is the home of whoever called sudo: root has no key of theirs. Raises RuntimeError when there is none."""
    caller = os.environ.get("SUDO_USER") if os.geteuid() == 0 else None
    if caller and path.startswith("~/"):
        path = f"~{caller}{path[1:]}"
    return Path(path).expanduser()


def is_key(line: str) -> bool:
    """Whether it is an ssh public key: a kind, and in base64 some fields, first the kind again (RFC 4253, 6.6)."""
    match = KEY.fullmatch(line)
    try:
        rest = base64.b64decode(match[2], validate=True) if match else b""
    except ValueError:
        return False
    fields = []
    while rest:
        end = 4 + int.from_bytes(rest[:4], "big")
        fields.append(rest[4:end])
        if len(rest) < end:
            return False
        rest = rest[end:]
    return match is not None and len(fields) > 1 and fields[0] == match[1].encode()


def complete_wifi(wifi: dict[str, str]) -> None:
    """Replace the password by the key that is derived from it."""
    if len(wifi["name"].encode()) > LONGEST_SSID:
        raise DeployError(f"a name of Wi-Fi has {LONGEST_SSID} bytes at most: correct it")
    if not re.fullmatch("[0-9a-fA-F]{64}", wifi["password"]):
        if not 8 <= len(wifi["password"].encode()) <= 63:
            raise DeployError("a password of Wi-Fi has 8 to 63 characters: correct it")
        secret = wifi["password"].encode(), wifi["name"].encode()
        wifi["password"] = hashlib.pbkdf2_hmac("sha1", *secret, 4096, 32).hex()  # IEEE 802.11i's key


def check_table(name: str, value: Any) -> None:
    """One top-level key of the file, against KEYS."""
    table = name if name in KEYS else ""
    content = value if table else {name: value}
    if not isinstance(content, dict):
        raise DeployError(f"{name} must be a table: [{name}]")
    for key, text in content.items():
        if key not in KEYS[table]:
            known = ", ".join(KEYS[table] if table else ("hostname", "[user]", "[wifi]", "[keyboard]"))
            raise DeployError(f"unknown key {key!r}: {table + ' has' if table else 'there are'} {known}")
        if not isinstance(text, str) or not text or not text.isprintable():
            raise DeployError(f"{key} must be a text of one line: correct it")
    missing = [key for key, is_needed in KEYS[table].items() if is_needed and key not in content]
    if missing:
        raise DeployError(f"[{table}] needs {' and '.join(missing)}: add it")


def check_names(settings: dict[str, Any]) -> None:
    """Host name, user, country and keyboard."""
    user = settings.get("user", {}).get("name", "a")
    for name in (settings.get("hostname", "a"), user):
        if not NAME.fullmatch(name):
            raise DeployError(f"{name!r} is no name: small letters a-z, digits and -, starting with a letter")
    if user in ("root", "earshot"):
        raise DeployError(f"user {user} is the system's: choose another name")
    if len(user) > LONGEST_USER:
        raise DeployError(f"user {user}: a name has {LONGEST_USER} characters at most: choose another")
    if "wifi" in settings and not re.fullmatch("[A-Z]{2}", settings["wifi"]["country"]):
        raise DeployError("country must be two capital letters, such as DE: correct it")
    if "keyboard" in settings and not re.fullmatch("[a-z]{2,8}", settings["keyboard"]["layout"]):
        raise DeployError("layout must be small letters, such as de: correct it")


def check_user(root: Path, settings: dict[str, Any]) -> None:
    """Raises DeployError when that system has a user or a group of its own by the user's name, and InstallError."""
    name = settings.get("user", {}).get("name")
    for file in ("etc/passwd", "etc/group"):
        for number in re.findall(rf"^{name}:[^:\n]*:(\d+):", install.text_of(root / file), re.MULTILINE):
            if not 1000 <= int(number) < 60000:
                raise DeployError(f"user {name} is the system's (/{file} has it): choose another name")
