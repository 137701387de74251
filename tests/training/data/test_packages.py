import pytest
from registry import queen

from training.data import packages
from training.data.recordings import DataError


def test_a_package_is_fetched_once(registry):
    registry.put("klettres-data", {"usr/share/klettres/nl/alpha/a.ogg": b"a"})
    place = packages.fetched("klettres-data")
    registry.remove("klettres-data")
    assert packages.fetched("klettres-data") == place
    assert (place / "usr/share/klettres/nl/alpha/a.ogg").read_bytes() == b"a"


def test_a_game_is_split_into_its_lines(registry):
    files = {"260008P1.SB": b"happy", "C31D_022.SB": b"hello there", "PILOT.PCX": b"a picture"}
    registry.put("flight-of-the-amazon-queen", {"usr/share/queen.1c": queen(files)})
    found = sorted(packages.fetched("flight-of-the-amazon-queen").rglob("*"))
    assert [path.name for path in found if path.is_file()] == ["260008P1.mp3", "C31D_022.mp3"]
    assert found[-1].read_bytes() == b"hello there"


def test_what_cannot_be_fetched_is_one_line_and_leaves_nothing(registry, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"Unable to locate klettres-data.*data.packages = \[\]"):
        packages.fetched("klettres-data")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"cannot fetch klettres-data .*apt-get.*needs apt-get"):
        packages.fetched("klettres-data")
    assert not list(packages.FOLDER.iterdir())


def test_a_package_that_cannot_be_unpacked_leaves_nothing(registry):
    registry.put("beneath-a-steel-sky", {"usr/share/sky.dnr": b"\0\0\0\0", "usr/share/readme": b""})
    with pytest.raises(DataError, match="beneath-a-steel-sky: sky.dnr has an unknown format"):
        packages.fetched("beneath-a-steel-sky")
    assert not list(packages.FOLDER.iterdir())
