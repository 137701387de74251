import os
import struct

import pytest

from training import packages
from training.data import DataError


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry with one package in it: apt-get and dpkg-deb for as long as a test takes."""
    tools, shelf = tmp_path / "tools", tmp_path / "shelf"
    tools.mkdir()
    shelf.mkdir()
    fetch = f'#!/bin/sh\ncp {shelf}/"$2".deb . || {{ echo "E: Unable to locate $2" >&2; exit 1; }}\n'
    (tools / "apt-get").write_text(fetch)
    (tools / "dpkg-deb").write_text('#!/bin/sh\nmkdir -p "$3" && tar -xf "$2" -C "$3"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return shelf


def pack(shelf, name, files):
    import tarfile
    from io import BytesIO

    with tarfile.open(shelf / f"{name}.deb", "w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))


def test_only_speech_is_taken_and_fetched_once(registry, tmp_path):
    name = "tuxpaint-stamps-default"
    pack(registry, name, {"usr/duck.ogg": b"quack", "usr/duck_desc_cs.ogg": b"kachna", "usr/duck_desc.ogg": b"duck"})
    found = packages.recordings((name,), ("happy",), tmp_path / "runs")
    assert [path.name for path in found] == ["duck_desc.ogg", "duck_desc_cs.ogg"]
    (registry / f"{name}.deb").unlink()
    assert packages.recordings((name,), ("happy",), tmp_path / "runs") == found


def test_a_game_is_split_into_its_lines_but_those_with_the_keyword(registry, tmp_path):
    files = {"260008P1.SB": b"happy", "C31D_022.SB": b"hello there", "PILOT.PCX": b"a picture"}
    head = b"QTBLCEM10\0\0\0\1" + struct.pack(">H", len(files))
    at, entries, body = len(head) + 21 * len(files), b"", b""
    for name, content in files.items():
        entries += struct.pack(">12sBII", name.encode(), 1, at + len(body), len(content))
        body += content
    pack(registry, "flight-of-the-amazon-queen", {"usr/share/queen.1c": head + entries + body})
    for keyword, wanted in (("happy", [b"hello there"]), ("sheila", [b"happy", b"hello there"])):
        found = packages.recordings(("flight-of-the-amazon-queen",), (keyword,), tmp_path / "runs")
        assert [path.read_bytes() for path in found] == wanted


def test_what_cannot_be_fetched_is_one_line_and_leaves_nothing(registry, tmp_path):
    with pytest.raises(DataError, match=r"Unable to locate klettres-data.*data.packages = \[\]"):
        packages.recordings(("klettres-data",), ("happy",), tmp_path / "runs")
    assert not list((tmp_path / "runs").iterdir())
    with pytest.raises(DataError, match="'festival' is not known; known: flight"):
        packages.recordings(("festival",), ("happy",), tmp_path / "runs")
