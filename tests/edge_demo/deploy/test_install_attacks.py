"""What the service's user left behind for the installer, who is root: configurations, and bundles that these name.

The check runs Python of the release. Here a program that misbehaves stands in its place, as a bundle would that got
further than it should; tests/edge_demo/deploy/test_deploy.py has the whole installer.
"""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from weaken import weaken

from edge_demo.deploy import install

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user: run it with sudo")
NOBODY = 65534, 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    (folder / install.CONFIG).write_text('bundle = "/nowhere"\n')
    yield folder
    shutil.rmtree(folder)


def check(module: Any, place: Path, program: str) -> None:
    """Run the check with this program, of sh, in the place of the release's Python."""
    python = place / "release/venv/bin/python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    module.check_runs(place / "release", place / install.CONFIG, place, NOBODY)


def refusal(module: Any, place: Path, program: str) -> str:
    with pytest.raises(module.InstallError) as caught:
        check(module, place, program)
    return str(caught.value)


def test_it_is_the_services_user_who_looks(place):
    (place / "secret").write_text("only root's")
    (place / "secret").chmod(0o600)
    program = f"id -u >&2; /bin/cat {place}/secret && exit 0; exit 1"
    assert "Permission denied" in refusal(install, place, program)
    assert "65534" in refusal(install, place, "id -u >&2; exit 1")
    assert "does not run here: 65534 65534" in refusal(install, place, 'echo "$(id -u) $(id -G)" >&2; exit 1')
    as_root = ("user=user[0],\n            group=user[1], extra_groups=(), ", "\n            ")
    check(weaken("edge_demo/deploy/install.py", as_root), place, program)


def test_it_takes_no_modules_from_the_services_user(place):
    """Python would look for some in its home, which is the user's, but for -I."""
    program = 'case "$*" in "-I "*) exit 0; esac; exit 1'
    check(install, place, program)
    assert "does not run here" in refusal(weaken("edge_demo/deploy/install.py", ('"-I", ', "")), place, program)


@pytest.mark.parametrize(("limit", "program"), [
    ("RLIMIT_DATA", "/usr/bin/head -c 400M /dev/zero | /usr/bin/tail -n 1 | /usr/bin/wc -c | /bin/grep -q 419430400"),
    ("RLIMIT_FSIZE", "/usr/bin/head -c 2M /dev/zero >&2"),
    ("RLIMIT_CPU", "! /bin/grep '^Max cpu time  *60 ' /proc/self/limits"),
    ("RLIMIT_NPROC", "! /bin/grep '^Max processes  *64 ' /proc/self/limits"),
], ids=["memory", "file", "processor", "processes"])
def test_it_has_limits(place, limit, program):
    assert "does not run here" in refusal(install, place, program)
    weak = weaken("edge_demo/deploy/install.py")
    weak.LIMITS = {what: most for what, most in install.LIMITS.items() if what != getattr(install.resource, limit)}
    check(weak, place, program)


def test_it_has_an_end_and_leaves_nobody_behind(place, monkeypatch):
    program = f"/bin/sleep 1000 & echo $! > {place}/child; wait"
    (place / "child").touch()
    os.chown(place / "child", *NOBODY)
    monkeypatch.setattr(install, "CHECK_SECONDS", 1)
    assert "no answer in 1 s" in refusal(install, place, program)
    assert not is_alive(place)
    weak = weaken("edge_demo/deploy/install.py", ("os.killpg(process.pid, signal.SIGKILL)", "process.kill()"))
    weak.CHECK_SECONDS = 1
    refusal(weak, place, program)
    assert is_alive(place)
    os.kill(int((place / "child").read_text()), 9)


def is_alive(place: Path) -> bool:
    time.sleep(0.1)
    status = Path("/proc", (place / "child").read_text().strip(), "status")
    return status.exists() and "\nState:\tZ" not in status.read_text()


def test_what_it_says_commands_no_terminal(place):
    program = "printf 'evil\\033]0;owned\\007' >&2; exit 1"
    assert refusal(install, place, program).endswith("evil?]0;owned?")
    weak = weaken("edge_demo/deploy/install.py", ("c if c.isprintable() else", "c if True else"))
    assert "\x1b" in refusal(weak, place, program)


def ends(act: Callable[[], Any]) -> bool:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(1)
    return not thread.is_alive()


def test_a_pipe_in_place_of_the_configuration_holds_nobody_up(place):
    path = place / install.CONFIG
    path.unlink()
    os.mkfifo(path)
    assert "no plain file" in refusal(install, place, "exit 0")
    assert ends(lambda: install.own_bytes(path))
    weak = weaken("edge_demo/deploy/install.py", (" | os.O_NONBLOCK", ""))
    assert not ends(lambda: weak.own_bytes(path))
    path.open("wb").close()  # sets it free


@pytest.mark.parametrize("target", ["/etc/shadow", "/dev/zero"])
def test_a_link_in_place_of_the_configuration_is_not_read(place, target):
    (place / install.CONFIG).unlink()
    (place / install.CONFIG).symlink_to(target)
    assert "no plain file" in refusal(install, place, "exit 0")
    if target == "/etc/shadow":
        weak = weaken("edge_demo/deploy/install.py", ("os.O_NOFOLLOW | ", ""))
        assert weak.own_bytes(place / install.CONFIG) == Path(target).read_bytes()


def test_a_configuration_without_end_is_not_read(place):
    with (place / install.CONFIG).open("wb") as file:
        file.truncate(2 << 30)
    assert "at most 1048576 bytes" in refusal(install, place, "exit 0")
