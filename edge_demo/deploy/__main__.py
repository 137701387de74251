"""Install a bundle and its runtime on a running Raspberry Pi, over ssh, and start it as a service.

    make deploy PI=anna@kitchen.local                        # with dist/happy-ensemble
    make deploy PI=anna@kitchen.local BUNDLE="dist/happy-ensemble dist/jarvis-small" CONFIG=earshot.toml
    make deploy PI=anna@kitchen.local ROLLBACK=1             # the previous release and its configuration
    python -m edge_demo.deploy anna@kitchen.local --ssh 'ssh -p 2222' dist/happy-ensemble

The Pi needs a 64-bit system with Python 3.11 or 3.13 (Raspberry Pi OS Bookworm or Trixie), rsync, and a user with sudo
without a password, as its first user has; it needs no internet. The release is built on this machine, once for each
version of Python: see payload.py. Only changed files are copied; without changes the service is not restarted.

The release is copied beside the running one, compared with its list of SHA-256, tried, and switched to in one step
(install.py). After any failure, also a broken connection, the old release still runs; run the same command again to go
on.

Exit codes: 0 it runs; 1 the Pi refused it, and what ran before still runs; 2 a mistake to be fixed.
"""

import argparse
import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from edge_demo.deploy import install, payload
from edge_demo.deploy.command import DeployError, add_bundles, need

MACHINES = ("aarch64",)
LISTEN_SECONDS = 15
INCOMING = "/run/earshot-config"  # in memory: a configuration may hold secrets
# Run by the Pi's Python.
QUESTIONS = """
import json, os, platform, shutil, subprocess, sys
print(json.dumps({
    "machine": platform.machine(), "python": "%d.%d" % sys.version_info[:2], "root": os.geteuid() == 0,
    "sudo": os.geteuid() == 0 or subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0,
    "missing": [name for name in ("rsync", "systemd-sysusers", "systemctl") if not shutil.which(name)],
    "current": os.path.realpath("/opt/earshot/current") if os.path.exists("/opt/earshot/current") else None,
    "free": shutil.disk_usage("/opt").free,
}))
"""


class Pi(NamedTuple):
    """A machine that ssh reaches. ssh: the command with its options; sudo: the prefix of a command as root."""

    host: str
    ssh: list[str]
    sudo: list[str]

    def run(self, *command: str, text: str | None = None, shown: bool = False) -> str:
        """The output of a command on the Pi; shown: it goes to the terminal. Raises DeployError."""
        process = subprocess.run([*self.ssh, self.host, shlex.join(command)], input=text, text=True,
                                 stdin=None if text is not None else subprocess.DEVNULL,
                                 stdout=None if shown else subprocess.PIPE, stderr=None if shown else subprocess.PIPE)
        if process.returncode:
            last = ((process.stderr or "").strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            if process.returncode == 255:
                raise DeployError(f"{self.host}: no connection ({last}): does ssh {self.host} work?")
            raise DeployError(f"{self.host}: {last.removeprefix('install: error: ')}", 1)
        return process.stdout or ""

    def copy(self, source: Path, target: str, *options: str) -> None:
        """rsync a folder's content. Raises DeployError."""
        process = subprocess.run(
            ["rsync", "--archive", "--chown=0:0", "--mkpath", "--delete", "--timeout=60", "--info=progress2", *options,
             f"--rsync-path={shlex.join([*self.sudo, 'rsync'])}", f"--rsh={shlex.join(self.ssh)}",
             f"{source}/", f"{self.host}:{target}/"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if process.returncode and "No space left" in process.stderr:
            self.run(*self.sudo, "rm", "-rf", "--", target)
            raise DeployError(f"{self.host}: its disk is full: free some space there, and run this again", 1)
        if process.returncode:
            last = (process.stderr.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
            raise DeployError(f"{self.host}: copying broke off ({last}): run this again, and it goes on", 1)


def connect(host: str, ssh: list[str]) -> tuple[Pi, dict[str, Any]]:
    """A Pi that can be deployed to, and the answers to QUESTIONS. Raises DeployError."""
    facts = json.loads(Pi(host, ssh, []).run("python3", "-", text=QUESTIONS))
    if facts["machine"] not in MACHINES:
        raise DeployError(f"{host}: is {facts['machine']}, and onnxruntime needs a 64-bit system on Arm: "
                          "install Raspberry Pi OS (64-bit)")
    if not facts["sudo"]:
        raise DeployError(f"{host}: sudo asks for a password there: allow it without, "
                          "by sudo visudo and a line: USER ALL=(ALL) NOPASSWD: ALL")
    if facts["missing"]:
        raise DeployError(f"{host}: has no {' and no '.join(facts['missing'])}: install it there with apt")
    return Pi(host, ssh, [] if facts["root"] else ["sudo", "-n"]), facts


def deploy(pi: Pi, facts: dict[str, Any], bundles: list[Path], config: Path | None) -> None:
    """Raises DeployError."""
    with tempfile.TemporaryDirectory() as name:
        if config is not None:
            payload.config_folder(config, bundles, Path(name))
        release = payload.build(facts["python"], bundles)
        target = f"/{install.HOME}/releases/{release.name}"
        before = facts["current"]
        if before != target:
            print(f"copying release {release.name} to {pi.host}", flush=True)
            pi.copy(release, target, *([f"--link-dest={before}"] if before else []))
        try:
            if config is not None:
                pi.copy(Path(name), INCOMING, "--chmod=D700,F600")
            given = [f"--config={INCOMING}"] if config is not None else []
            print(pi.run(*pi.sudo, "python3", f"{target}/install.py", *given), end="", flush=True)
        finally:
            if config is not None:
                pi.run(*pi.sudo, "rm", "-rf", INCOMING)
    print(f"release {release.name} runs on {pi.host}; its events in the next {LISTEN_SECONDS} s:", flush=True)
    show(pi)


def show(pi: Pi) -> None:
    """Print the service's lines for LISTEN_SECONDS."""
    with contextlib.suppress(DeployError):  # timeout's exit code is never 0
        pi.run(*pi.sudo, "timeout", str(LISTEN_SECONDS), "journalctl", "--unit=earshot", "--output=cat", "--lines=5",
               "--follow", shown=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edge_demo.deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("host", metavar="USER@HOST")
    add_bundles(parser)
    parser.add_argument("--config", metavar="FILE", type=Path,
                        help="earshot.toml, which replaces the Pi's; without it, that stays as it is")
    parser.add_argument("--rollback", action="store_true", help="run the previous release")
    parser.add_argument("--ssh", metavar="COMMAND", default="ssh", help="such as 'ssh -p 2222 -i key'")
    options = parser.parse_args(arguments)
    try:
        need("ssh", "rsync")
        with tempfile.TemporaryDirectory() as folder:
            # One connection for all commands, so that ssh asks for a password once; keep-alives detect a broken one.
            ssh = [*shlex.split(options.ssh), "-o", "ControlMaster=auto", "-o", f"ControlPath={folder}/%C", "-o",
                   "ControlPersist=60", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6"]
            try:
                pi, facts = connect(options.host, ssh)
                if options.rollback:
                    pi.run(*pi.sudo, "python3", f"/{install.HOME}/current/install.py", "--rollback")
                    print(f"what ran before runs again on {pi.host}")
                else:
                    deploy(pi, facts, options.bundles, options.config)
            finally:
                subprocess.run([*ssh, "-O", "exit", options.host], capture_output=True)
    except DeployError as error:
        print(f"deploy: error: {error}", file=sys.stderr)
        return error.code
    except OSError as error:
        print(f"deploy: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
