import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from registry import queen

from training.data import corpora, noises
from training.data import recordings as data
from training.data.corpora import KINDS, SPEECH
from training.data.recordings import SPLITS, DataError


@pytest.fixture
def base(tmp_path, registry):
    """Recordings of each kind below a folder, and in each package."""
    for number in range(40):
        write(tmp_path / f"data/continuous/{number}.flac")
        write(tmp_path / f"data/read_speech/{number // 2}-{number}.flac")
    for name in ("arabic/one/a.wav", "heycomputer/a.wav", "heycomputer/b.wav"):
        write(tmp_path / "data/other_words" / name)
    for name in ("rain/a.ogg", "rain/b.ogg"):
        write(tmp_path / "data/noise" / name)
    (tmp_path / "data/noise/testing_list.txt").write_text("rain/a.ogg\n")
    registry.put_empty(corpora.known_packages())
    lines = {f"{name}.SB": b"mp3" for name in ("120001P1", "120001J1", "020001P1", "JOE00011", "C20G_021", "C20G_011")}
    lines["1000SSSS.SB"] = b"mp3"
    registry.put("flight-of-the-amazon-queen", {"usr/queen.1c": queen(lines)})
    names = {
        "hedgewars-data": ["voices/British/Hello.ogg", "voices/Classic/Hello.ogg", "voices/Default/Hello.ogg"],
        "tuxpaint-stamps-default": ["duck.ogg", "duck_desc.ogg", "duck_desc_el.ogg", "duck_desc_pt_BR.ogg"],
        "asterisk-core-sounds-en-wav": ["sounds/en_US_f_Allison/hello.wav", "sounds/en_US_f_Allison/silence/1.wav"],
        "fillets-ng-data-nl": ["sound/computer/nl/poc-m-hm.ogg", "sound/computer/nl/poc-m-myslis.ogg"],
    }
    for name, paths in names.items():
        registry.put(name, {f"usr/share/{path}": b"audio" for path in paths})
    return tmp_path / "data"


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(1600), 16_000)


def names(kind, split, base):
    return {one.name for one in corpora.recordings(kind, split, base)}


def test_no_recording_and_no_voice_is_in_two_splits(base):
    places: dict[str, set] = {}
    for kind in KINDS:
        for split in SPLITS:
            for one in corpora.recordings(kind, split, base):
                places.setdefault(str(one.path or one.name), set()).add(split)
                places.setdefault(one.voice, set()).add(split)
    assert len(places) > 200
    assert [name for name, splits in places.items() if len(splits) > 1] == []


def test_names_decide(base):
    assert names("acted", "validation", base) == {
        "flight-of-the-amazon-queen/120001P1.mp3",
        "flight-of-the-amazon-queen/C20G_021.mp3",
        "hedgewars-data/Hello.ogg",
    }
    assert "flight-of-the-amazon-queen/120001J1.mp3" in names("acted", "training", base)
    assert {one.voice for one in corpora.recordings("languages", "training", base)} == {
        "other_words arabic/one", "tuxpaint-stamps-default ", "tuxpaint-stamps-default pt_BR",
    }  # fmt: skip
    assert names("languages", "validation", base) == {"tuxpaint-stamps-default/duck_desc_el.ogg"}
    assert "tuxpaint-stamps-default/duck.ogg" in names("noise", "training", base)
    assert "asterisk-core-sounds-en-wav/hello.wav" in names("read", "testing", base)
    assert not any("1.wav" in name for kind in KINDS for split in SPLITS for name in names(kind, split, base))
    assert "noise/rain/a.ogg" in names("noise", "testing", base)
    assert "noise/rain/b.ogg" not in names("noise", "testing", base)


def test_halves_are_drawn_and_whole_speakers_stay_together(base):
    halves = [corpora.recordings("requests", split, base) for split in ("validation", "testing")]
    assert sum(map(len, halves)) == 40
    assert min(map(len, halves)) > 10
    readers = [{one.voice for one in corpora.recordings("read", split, base)} for split in SPLITS]
    assert len(set.union(*readers)) == sum(map(len, readers)) == 20 + 1  # and Allison


def test_recordings_with_the_keyword_are_told_apart(base):
    said = {one.name for one in corpora.recordings("languages", "testing", base) if corpora.says(one, "computer")}
    assert said == {"fillets-ng-data-nl/poc-m-myslis.ogg"}  # and not all of that scene
    spoken = {one.name for one in corpora.speech("training", base, ["computer"])}
    others = {one.name for one in corpora.speech("training", base, ["happy"])}
    assert others - spoken == {"other_words/heycomputer/a.wav", "other_words/heycomputer/b.wav"}


def test_clips_get_the_split_of_the_table(base):
    clips = data.find(base, ["continuous", "noise"])
    clips.append(data.Clip(base / "else.wav", "", "training"))
    splits = {clip.path: clip.split for clip in corpora.split(clips, base)}
    assert {splits[one.path] for one in corpora.recordings("requests", "testing", base)} == {"testing"}
    assert splits[base / "noise/rain/a.ogg"] == "testing"
    assert splits[base / "else.wav"] == "training"


def test_only_wanted_packages_are_fetched(base, registry):
    for name in corpora.known_packages():
        registry.remove(name)
    assert corpora.recordings("acted", "testing", base, only=()) == []
    with pytest.raises(DataError, match="cannot fetch beneath-a-steel-sky"):
        corpora.recordings("acted", "testing", base)
    with pytest.raises(DataError, match=r"'festival' is not known; known: flight-of-the-amazon-queen, beneath"):
        corpora.recordings("acted", "testing", base, only=["festival"])


def test_the_table_is_whole():
    folders, others = corpora.rows()
    for row in folders + others:
        assert row.kind in KINDS
        assert row.split in (*SPLITS, corpora.LISTED) or set(row.split) <= set(SPLITS)
        assert re.compile(row.pattern).groups == 1
    for kind in KINDS:
        for split in SPLITS:
            assert any(row.may_be(kind, split) for row in folders + others), (kind, split)
    assert "beneath-a-steel-sky" not in corpora.known_packages("training")
    assert set(corpora.known_packages("testing", SPEECH)) < set(corpora.known_packages("testing"))


def test_noise_is_loud_differs_between_splits_and_stays_the_same():
    one, same, other = noises.noise((0, 3)), noises.noise((0, 3)), noises.noise((1, 3))
    assert len(one) == len(other) == noises.SECONDS * 16_000
    assert (one == same).all()
    assert (one != other).any()
    levels = data.frame_levels(data.to_float(one))
    assert np.abs(one.astype(int)).max() > 32_000
    assert (levels > 0.1).mean() > 0.1  # −10 dB of full scale
    assert (levels == 0).mean() > 0.02  # digital silence
    for sound in noises.SOUNDS:
        made = sound(5000, np.random.default_rng(0))
        assert made.shape == (5000,)
        assert np.isfinite(made).all()


def test_the_command_prints_hours(base):
    """In a process of its own, as a user runs it; MP3 and Ogg files in here are none, so without those packages."""
    command = [sys.executable, "-m", "training.data.corpora", "--data", str(base / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=corpora.HERE.parents[1])
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "no such folder of recordings" in done.stderr


def test_hours_of_real_recordings(recordings, registry, monkeypatch):
    """Of the folders alone; the packages are 725 MB."""
    monkeypatch.setattr(corpora, "known_packages", lambda *_: ())
    table = corpora.report(recordings).splitlines()
    assert [line.split()[0] for line in table] == ["training", *KINDS]
    assert float(table[1].split()[7]) + float(table[1].split()[13]) > 0.7  # requests: 44 minutes in two halves


def test_recordings_with_a_keyword_are_of_known_sources():
    sources = {row.source for row in sum(corpora.rows(), [])}
    names = [name for said in corpora.spoken().values() for name in said]
    assert len(names) > 50
    assert {name.split("/")[0] for name in names} <= sources
    assert all(text for said in corpora.spoken().values() for text in said.values())
