"""What surrounds the listener on its own machine: files that are none, commands that stay, streams that are closed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from lines import Lines, without_over
from page import HOP, SILENCE, TOKEN, Page, token_file
from programs import eventually, weakened
from toy import write_bundle

from runtime import secret
from runtime.errors import OptionsError
from runtime.options import parse, read_config

LOUD, QUIET = HOP * 15, SILENCE * 15


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def program(tmp_path):
    """program(changes…): listen.py, whose source has these changes."""
    made: list[Path] = []

    def make(*changes: tuple[str, str, str]) -> Path:
        made.append(weakened(tmp_path / f"program{len(made)}", *changes) / "runtime" / "listen.py")
        return made[-1]

    return make


# Files


def test_a_pipe_in_the_place_of_the_configuration(listen, toy, tmp_path, program):
    config = tmp_path / "earshot.toml"

    def attack(script: Path) -> bool:
        """Whether it goes on listening and tells that the reload failed."""
        config.write_text('bundle = "bundle"\n')
        page = Page(lambda *given, **options: listen(*given, script=script, **options), "--config", config)
        config.unlink()
        os.mkfifo(config)
        page.lines.process.send_signal(signal.SIGHUP)
        before = page.hops()
        assert eventually(lambda: page.hops() > before + 5, 5)
        try:
            reason = page.lines.until(3, event="reload_failed")["reason"]
        except pytest.fail.Exception:
            reason = ""
            threading.Thread(target=config.write_text, args=("",), daemon=True).start()  # sets it free
        page.close()
        config.unlink()
        return "not a plain file" in reason

    assert attack(program())
    assert not attack(program(("runtime/files.py", 'getattr(os, "O_NONBLOCK", 0)', "0")))


@pytest.mark.parametrize(("text", "problem"), [
    ("silence" + ".a" * 5000 + " = 1", "nested deeper than 8 levels"),
    ("threshold" + ".a" * 5000 + " = 1", "nested deeper than 8 levels"),
    ("a = " + "[" * 5000 + "]" * 5000, "not TOML"), ("a = " + "{a = " * 3000, "not TOML"),
    ("a = 1\n" * 20_000, "larger than 16384 bytes"), ("exec = 0x" + "f" * 5000, "exec must be"),
    ("silence = 0x" + "f" * 5000, "silence must be"), ("device = 0x" + "f" * 5000, "device must be")])
def test_toml_that_no_person_writes(tmp_path, text, problem):
    (tmp_path / "earshot.toml").write_text(text)
    with pytest.raises(OptionsError, match=problem) as caught:
        read_config(str(tmp_path / "earshot.toml"))
    assert str(caught.value).isprintable()


def test_deep_toml_without_the_check(tmp_path, monkeypatch):
    (tmp_path / "earshot.toml").write_text("silence" + ".a" * 5000 + " = 1")
    monkeypatch.setattr("runtime.options.DEEPEST", 100_000)
    with pytest.raises(RecursionError):
        read_config(str(tmp_path / "earshot.toml"))


@pytest.mark.parametrize("path", ["~nosuchuser/earshot.toml", "/dev/zero", "/dev/stdin", ".", "a" * 5000])
def test_a_configuration_that_is_none(path):
    with pytest.raises(OptionsError, match="cannot be read"):
        parse(["x", "--config", path])


@pytest.mark.parametrize("token", ["a" * 40, "1234567890123456", "0123456789abcdef", "passwordpassword",
                                   "abcdabcdabcdabcd", "1111222233334444", "short-secret"])
def test_tokens_that_can_be_guessed(tmp_path, token, monkeypatch):
    options = parse(["x", "--dashboard", "1", "--dashboard-token-file", str(token_file(tmp_path / "token", token))])
    with pytest.raises(OptionsError, match="can be guessed: write another one there"):
        secret.read_secrets(options)
    monkeypatch.setattr(secret, "_can_be_guessed", lambda token: False)
    secret.read_secrets(options)
    assert options.dashboard_token == token


@pytest.mark.parametrize("mode", [0o666, 0o644, 0o620, 0o604])
@pytest.mark.parametrize("name", ["dashboard-token", "mqtt-password"])
def test_secrets_that_others_may_read_or_change(tmp_path, mode, name):
    path = token_file(tmp_path / "secret")
    options = parse(["x", "--dashboard", "1", "--mqtt", "mqtt://x", f"--{name}-file", str(path)])
    secret.read_secrets(options)
    assert TOKEN in (options.dashboard_token, options.mqtt_password)
    path.chmod(0o640)  # root's, for the group of the service
    secret.read_secrets(options)
    path.chmod(mode)
    with pytest.raises(OptionsError, match=f"chmod 600 {path}"):
        secret.read_secrets(options)


# Commands


def running(path: Path) -> bool:
    """Whether the process whose number is in that file is there."""
    try:
        return Path(f"/proc/{path.read_text().strip()}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, ValueError):
        return False


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


DAEMON = "setsid sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000' & while [ ! -e {0} ]; do sleep 0.01; done"
HOOKS = {"ends": DAEMON, "hangs": DAEMON + "; sleep 1000", "is a daemon's parent": f"( ( {DAEMON} ) & ) ; sleep 0.5"}


@pytest.mark.parametrize("kind", HOOKS)
def test_what_a_command_leaves_in_a_session_of_its_own(listen, toy, tmp_path, program, kind):
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\n" + HOOKS[kind].format(tmp_path / "number"))
    hook.chmod(0o755)

    def attack(script: Path) -> bool:
        """Whether it outlives the command."""
        (tmp_path / "number").unlink(missing_ok=True)
        lines = Lines(listen(toy, "--stdin", "--exec", hook, "--exec-timeout", "1.5", script=script,
                             stdin=subprocess.PIPE))
        lines.feed(LOUD, QUIET)
        lines.until(10, keyword="loud")
        assert eventually((tmp_path / "number").exists)
        gone = eventually(lambda: not running(tmp_path / "number"), 2.5)
        assert not gone or eventually(lambda: not children(lines.process.pid)), "a dead child is not waited for"
        lines.end()
        return not gone

    assert not attack(program())
    if kind == "ends":
        weak = program(("runtime/sinks/hook.py",
                        "        self._clear_away()\n        if end == 0", "        if end == 0"))
        assert attack(weak)


def test_what_a_command_left_is_killed_at_the_end_too(listen, toy, tmp_path):
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\n" + HOOKS["hangs"].format(tmp_path / "number"))
    hook.chmod(0o755)
    lines = Lines(listen(toy, "--stdin", "--exec", hook, stdin=subprocess.PIPE))
    lines.feed(LOUD, QUIET)
    lines.until(10, keyword="loud")
    assert eventually((tmp_path / "number").exists) and running(tmp_path / "number")
    lines.end()
    assert eventually(lambda: not running(tmp_path / "number"), 1)


def test_a_command_that_runs_is_left_alone_when_another_ends(listen, toy, tmp_path):
    """What one has in a session of its own lives as long as it does."""
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\nif mkdir {tmp_path}/first; then {HOOKS['hangs'].format(tmp_path / 'number')}; fi")
    hook.chmod(0o755)
    lines = Lines(listen(toy, "--stdin", "--exec", hook, "--exec-timeout", "2", stdin=subprocess.PIPE))
    lines.feed(LOUD, QUIET)
    lines.until(10, keyword="loud")
    assert eventually((tmp_path / "number").exists)
    lines.feed(LOUD, QUIET)
    lines.until(10, keyword="loud")
    time.sleep(0.5)
    assert running(tmp_path / "number")
    assert eventually(lambda: not running(tmp_path / "number"), 5)
    lines.end()


# Characters and streams

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_keyword_in_chinese_where_the_locale_has_ascii_alone(listen, tmp_path, program):
    bundle = write_bundle(tmp_path / "bundle", keywords=["小愛"])
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\necho $EARSHOT_KEYWORD > {tmp_path}/said")
    hook.chmod(0o755)

    def attack(script: Path) -> dict[str, int] | None:
        """The events, or None when it fell over."""
        process = listen(bundle, "--stdin", "--exec", hook, "--save-on-detect", tmp_path / "clips", script=script,
                         stdin=subprocess.PIPE, env=os.environ | ASCII)
        out, err = process.communicate(LOUD + QUIET, timeout=20)
        if b"Traceback" in err:
            return None
        assert process.returncode == 0 and not err
        lines = without_over(out)
        assert lines[0]["keyword"] == "小愛"
        return {line["event"]: 1 for line in lines[1:]}

    assert attack(program()) == {}
    assert (tmp_path / "said").read_text() == "小愛\n" and len(list((tmp_path / "clips").glob("*-_-*.wav"))) == 1
    name = ("runtime/sinks/keep.py", "if not _can_be_a_name(keyword):", "if False:")
    assert attack(program(name)) == {"save_failed": 1}
    weak = program(name, ("runtime/sinks/keep.py", "except Exception as error:", "except OSError as error:"))
    assert attack(weak) is None


def test_a_folder_in_chinese_where_the_locale_has_ascii_alone(listen, toy, tmp_path):
    (tmp_path / "earshot.toml").write_text('bundle = "bundle"\nstdin = true\nsave-on-detect = "愛"')
    process = listen("--config", tmp_path / "earshot.toml", env=os.environ | ASCII)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2 and b"save-on-detect must be in characters that this locale has" in err
    assert err.count(b"\n") == 1


@pytest.mark.parametrize("how", ["a reader that has gone", "closed"])
def test_a_meter_that_nobody_reads(toy, program, how):
    def attack(script: Path) -> bool:
        """Whether it goes on, and its lines on standard output are its own."""
        command = [sys.executable, str(script), str(toy), "--stdin", "--meter"]
        closing = ["sh", "-c", 'exec "$@" 2>&-', "sh"] if how == "closed" else []
        process = subprocess.Popen([*closing, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        process.stderr.close()
        out, _ = process.communicate(SILENCE * 30 + LOUD + QUIET, timeout=20)
        return process.returncode == 0 and [line["keyword"] for line in without_over(out)] == ["loud"]

    assert attack(program())
    assert not attack(program(
        ("runtime/listen.py", "    open_standard_streams()\n", "") if how == "closed" else
        ("runtime/journal.py", "    except OSError:", "    except ZeroDivisionError:")))
