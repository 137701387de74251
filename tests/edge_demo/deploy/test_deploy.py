"""Deploying over a real sshd on loopback, into a root directory of its own: an overlay of this machine's.

The real ones: ssh, sshd, rsync, systemd-sysusers, install.py, and the listener that the unit's ExecStart names. Stood
in for: systemd itself, by a program that runs ExecStart and waits for its READY=1, and journalctl. The release is small
(`small_site`), and of this machine's architecture and Python.
"""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy import write_bundle

from edge_demo.deploy import __main__ as deploy

MISSING = [name for name in ("sshd", "ssh-keygen", "rsync", "systemd-sysusers")
           if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
pytestmark = pytest.mark.skipif(bool(MISSING) or os.geteuid() != 0, reason="deploying to a root of its own needs "
                                f"{', '.join(MISSING) or 'root'}: apt-get install openssh-server rsync, as root")

SYSTEMCTL = """#!/usr/bin/env python3
import os, re, signal, socket, subprocess, sys, time
words = [word for word in sys.argv[1:] if not word.startswith("-")]
try:
    pid = int(open("/run/earshot.pid").read())
    os.kill(pid, 0)
except (OSError, ValueError):
    pid = None
if words[0] == "is-active":
    sys.exit(0 if pid else 3)
if words[0] == "restart":
    if pid:
        os.kill(pid, signal.SIGTERM)
        while os.path.exists(f"/proc/{pid}") and "Z" not in open(f"/proc/{pid}/stat").read().split()[2]:
            time.sleep(0.05)
        os.unlink("/run/earshot.pid")
    unit = open("/etc/systemd/system/earshot.service").read().replace("\\\\\\n", "")
    command = re.search("ExecStart=(.*)", unit)[1].split()
    ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if os.path.exists("/run/notify"):
        os.unlink("/run/notify")
    ready.bind("/run/notify")
    ready.settimeout(0.2)
    log = open("/run/earshot.log", "a")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                               env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": "/run/notify"})
    while process.poll() is None:
        try:
            if b"READY=1" in ready.recv(1000):
                open("/run/earshot.pid", "w").write(str(process.pid))
                sys.exit(0)
        except TimeoutError:
            pass
    sys.exit(1)
"""
JOURNALCTL = "#!/bin/sh\nexec tail -n +1 -f /run/earshot.log\n"


class Machine:
    """A root folder and the port of its sshd."""

    def __init__(self, root: Path, port: int, key: Path, folder: Path) -> None:
        self.root, self.port, self.key, self.folder = root, port, key, folder

    def deploy(self, *arguments: object, port: int | None = None) -> int:
        ssh = (f"ssh -p {port or self.port} -i {self.key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
               "-o LogLevel=ERROR -o BatchMode=yes")
        return deploy.main(["root@127.0.0.1", *map(str, arguments), "--ssh", ssh])

    @property
    def current(self) -> str:
        return os.readlink(self.root / "opt/earshot/current")

    @property
    def pid(self) -> int:
        """Of the service, which must be running."""
        pid = int((self.root / "run/earshot.pid").read_text())
        os.kill(pid, 0)
        return pid

    @property
    def releases(self) -> list[str]:
        return sorted(path.name for path in (self.root / "opt/earshot/releases").iterdir())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def machine(tmp_path, small_site, monkeypatch) -> Iterator[Machine]:
    monkeypatch.setattr(deploy, "MACHINES", (os.uname().machine,))
    monkeypatch.setattr(deploy, "LISTEN_SECONDS", 2)
    root, mounts = tmp_path / "pi", []
    for name in ("pi", "upper", "work"):
        (tmp_path / name).mkdir()

    def mount(*arguments: str | Path) -> None:
        if subprocess.run(["mount", *arguments], capture_output=True).returncode:
            pytest.skip(f"mount {' '.join(map(str, arguments[:2]))} is not allowed here")
        mounts.append(arguments[-1])

    server = None
    try:
        mount("-t", "overlay", "-o", f"lowerdir=/,upperdir={tmp_path}/upper,workdir={tmp_path}/work", "overlay", root)
        mount("-t", "proc", "proc", root / "proc")
        mount("--bind", "/dev", root / "dev")
        mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", root / "opt")
        mount("-t", "tmpfs", "tmpfs", root / "run")
        (root / "run/sshd").mkdir(mode=0o755)
        python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        for name in (f"usr/bin/{python}", "usr/local/bin/python3"):
            (root / name).unlink(missing_ok=True)
            (root / name).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            (root / name).chmod(0o755)
        for folder in {Path(sys.prefix, "bin"), Path(sys.executable).resolve()}:  # for the service's user
            for one in folder.resolve().parents:
                (root / str(one)[1:]).chmod(0o755)
        for name, text in (("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)):
            (root / "usr/local/bin" / name).write_text(text)
            (root / "usr/local/bin" / name).chmod(0o755)
        for name in ("key", "host"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
        (root / "etc/keys").write_text((tmp_path / "key.pub").read_text())
        (root / "etc/host").write_text((tmp_path / "host").read_text())
        (root / "etc/host").chmod(0o600)
        port = free_port()
        (root / "etc/sshd_test").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey /etc/host\nAuthorizedKeysFile /etc/keys\nStrictModes no\n"
            "PermitRootLogin yes\nUsePAM no\nSetEnv PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n")
        server = subprocess.Popen(["chroot", root, "/usr/sbin/sshd", "-D", "-e", "-f", "/etc/sshd_test"],
                                  stdin=subprocess.DEVNULL, stderr=(tmp_path / "sshd.log").open("w"))
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield Machine(root, port, tmp_path / "key", tmp_path)
    finally:
        pid = root / "run/earshot.pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGKILL)
        if server is not None:
            server.kill()
            server.wait()
        for path in reversed(mounts):
            subprocess.run(["umount", "--lazy", path])


def test_a_first_deployment_the_same_again_another_and_back(machine, toy, capfd):
    assert machine.deploy(toy) == 0, capfd.readouterr().err
    first, pid = machine.current, machine.pid
    assert "microphone_lost" in capfd.readouterr().out  # the first events: there is none
    state = machine.root / "var/lib/earshot"
    assert f"bundles/{toy.name}" in (state / "earshot.toml").read_text()
    assert "earshot:" in (machine.root / "etc/passwd").read_text() and (state / "earshot.toml").stat().st_uid

    assert machine.deploy(toy) == 0
    out = capfd.readouterr().out
    assert "nothing has changed" in out and "copying" not in out
    assert (machine.current, machine.pid) == (first, pid)

    old = (state / "earshot.toml").read_text()
    other = write_bundle(machine.folder / "other" / toy.name, threshold=[0.6])
    config = machine.folder / "earshot.toml"
    config.write_text(f'threshold = 0.4\nbundle = ["/opt/earshot/current/bundles/{toy.name}"]\n')
    assert machine.deploy(other, "--config", config) == 0
    assert machine.current != first and machine.pid != pid
    assert (state / "earshot.toml").read_text() == config.read_text()
    assert not (machine.root / "run/earshot-config").exists()
    listens = [machine.root / "opt/earshot" / release / "runtime/listen.py" for release in (first, machine.current)]
    assert listens[0].stat().st_ino == listens[1].stat().st_ino  # what has not changed was not sent again

    second = machine.current
    assert machine.deploy("--rollback") == 0
    assert machine.current == first and (state / "earshot.toml").read_text() == old and machine.pid
    assert machine.deploy("--rollback") == 0
    assert machine.current == second and (state / "earshot.toml").read_text() == config.read_text()
    assert "Traceback" not in capfd.readouterr().err


class Relay(threading.Thread):
    """A way to a port that breaks off after so many bytes to it."""

    def __init__(self, port: int, most: int) -> None:
        super().__init__(daemon=True)
        self._target, self._left = port, most
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.start()

    def run(self) -> None:
        client, _ = self._server.accept()
        with client, socket.create_connection(("127.0.0.1", self._target)) as server:
            while self._left > 0:
                for one in select.select([client, server], [], [])[0]:
                    data = one.recv(65536)
                    if not data:
                        return
                    (server if one is client else client).sendall(data)
                    self._left -= len(data) if one is client else 0
        self._server.close()


def test_a_connection_that_breaks_off_half_way_changes_nothing(machine, toy, small_site, capfd):
    assert machine.deploy(toy) == 0
    first, pid = machine.current, machine.pid
    (small_site / "ballast").write_bytes(os.urandom(8 << 20))
    assert machine.deploy(toy, port=Relay(machine.port, 4 << 20).port) == 1
    err = capfd.readouterr().err
    assert "broke off" in err and "run this again" in err and err.count("\n") == 1
    assert (machine.current, machine.pid) == (first, pid)
    assert len(machine.releases) == 2  # the half one is where the next try goes on

    assert machine.deploy(toy) == 0
    assert machine.current != first and machine.pid != pid


def test_a_full_disk_changes_nothing(machine, toy, small_site, capfd):
    assert machine.deploy(toy) == 0
    first, pid = machine.current, machine.pid
    subprocess.run(["mount", "-o", "remount,size=4m", machine.root / "opt"], check=True)
    (small_site / "ballast").write_bytes(os.urandom(8 << 20))
    assert machine.deploy(toy) == 1
    err = capfd.readouterr().err
    assert "disk is full" in err and err.count("\n") == 1
    assert (machine.current, machine.pid) == (first, pid) and len(machine.releases) == 1


def test_a_release_that_does_not_start_is_switched_back_from(machine, toy, capfd):
    assert machine.deploy(toy) == 0
    first, kept = machine.current, (machine.root / "var/lib/earshot/earshot.toml").read_text()
    other = write_bundle(machine.folder / "other" / toy.name, threshold=[0.6])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = machine.folder / "earshot.toml"
        config.write_text(f'bundle = ["/opt/earshot/current/bundles/{toy.name}"]\n'
                          f'dashboard = "127.0.0.1:{taken.getsockname()[1]}"\n')
        assert machine.deploy(other, "--config", config) == 1
    assert "what ran before runs again" in capfd.readouterr().err
    assert machine.current == first and machine.pid
    assert (machine.root / "var/lib/earshot/earshot.toml").read_text() == kept


def test_a_release_that_was_damaged_on_its_way_is_not_switched_to(machine, toy, capfd):
    assert machine.deploy(toy) == 0
    first = machine.current
    (machine.root / "opt/earshot" / first / "runtime/listen.py").write_text("print('not mine')\n")
    assert machine.deploy(toy) == 1
    assert "1 files are not as they were made, first runtime/listen.py" in capfd.readouterr().err


def test_what_the_services_user_left_is_looked_at_as_that_user(machine, toy, capfd):
    assert machine.deploy(toy) == 0
    first, config = machine.current, machine.root / "var/lib/earshot/earshot.toml"
    private = write_bundle(machine.root / "opt/private/loud-test")
    private.parent.chmod(0o700)
    config.write_text('bundle = "/opt/private/loud-test"\n')
    other = write_bundle(machine.folder / "other" / toy.name, threshold=[0.6])
    assert machine.deploy(other) == 1
    assert "cannot be read (Permission denied)" in capfd.readouterr().err
    config.unlink()
    os.mkfifo(config)
    assert machine.deploy(other) == 1
    assert "earshot.toml: no plain file" in capfd.readouterr().err
    assert machine.current == first


def test_mistakes_are_told_in_a_line(machine, toy, capfd, monkeypatch):
    assert machine.deploy("--rollback") == 1
    assert capfd.readouterr().err.count("\n") == 1
    assert machine.deploy(toy, port=free_port()) == 2
    assert "no connection" in capfd.readouterr().err
    assert machine.deploy(machine.folder / "nowhere") == 2
    assert "nowhere" in capfd.readouterr().err
    monkeypatch.setattr(deploy, "MACHINES", ("aarch64", "not this one"))
    if os.uname().machine != "aarch64":
        assert machine.deploy(toy) == 2
        assert "64-bit" in capfd.readouterr().err
