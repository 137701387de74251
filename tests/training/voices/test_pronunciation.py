import subprocess
import sys
from pathlib import Path

import pytest

from training.data.recordings import DataError
from training.voices import confusable, pronunciation

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    "text, language, phonemes, syllables",
    [("hey juniper", "en", 8, 4), ("happy", "en", 4, 2), ("cat", "en", 3, 1), ("Guten Morgen", "de", 11, 4)],
)
def test_phonemes_and_syllables(text, language, phonemes, syllables):
    reading = pronunciation.read(text, language)
    assert (reading.phonemes, reading.syllables) == (phonemes, syllables)


def test_the_phonemes_are_shown():
    assert pronunciation.read("hey juniper").ipa == "hˈeɪ dʒˈuːnɪpɚ"


@pytest.mark.parametrize(
    "text, language, why",
    [
        ("", "en", "the word is empty"),
        ("   ", "en", "the word is empty"),
        ("a", "en", "one letter is said everywhere"),
        ("ab" * 100, "en", "has 200 letters, 40 are the most"),
        ("xkcd", "en", "spell 'xkcd' letter by letter"),
        ("hey brtzk", "en", "spell 'brtzk' letter by letter"),
        ("привет", "en", "no voice for 'en' reads Cyrillic letters: set LANGUAGE=ru"),
        ("hello", "ru", "no voice for 'ru' reads Latin letters: set LANGUAGE=en"),
        ("𓀀𓀁", "en", "no voice for 'en' reads Egyptian letters: write it"),
        ("hey 4", "en", "'4' is no letter"),
        ("hey\njuniper", "en", r"'\\n' is no letter"),
        ("''", "en", "nothing to say"),
        ("hey", "xx", "LANGUAGE=xx: espeak-ng has no such voice; known: af am"),
    ],
)
def test_what_is_no_keyword_is_one_line(text, language, why):
    with pytest.raises(DataError, match=why) as caught:
        pronunciation.read(text, language)
    assert "\n" not in str(caught.value)


def test_without_espeak_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match="apt-get install espeak-ng"):
        pronunciation.read("juniper")


@pytest.fixture
def few_words(monkeypatch):
    """So that not thousands are read."""
    monkeypatch.setattr(confusable, "COMMON", 300)
    confusable.common.cache_clear()
    yield
    confusable.common.cache_clear()


def words(monkeypatch, **often: float) -> None:
    monkeypatch.setattr(confusable, "frequencies", lambda language: often)
    confusable.common.cache_clear()


def test_warnings(few_words, monkeypatch):
    words(monkeypatch, cat=5e-5, category=2e-5, good=1e-3, morning=2e-4, the=5e-2)
    told = pronunciation.warnings(pronunciation.read("cat"))
    for part in (
        "is short (3 phonemes, 1 syllable)",
        "about 0.5 times an hour",
        "common words, which may be accepted: category",
    ):
        assert any(part in line for line in told), told
    assert "made of everyday words" in pronunciation.warnings(pronunciation.read("good morning"))[0]
    assert not pronunciation.warnings(pronunciation.read("hey juniper"))


def test_a_word_whose_vowels_are_not_written(few_words, monkeypatch):
    words(monkeypatch, مرحبا=1e-6)
    assert "hear hardly a vowel" in " ".join(pronunciation.warnings(pronunciation.read("مرحبا", "ar"), "ar"))


def test_common_words_that_sound_alike(few_words, monkeypatch):
    words(monkeypatch, jupiter=1e-5, jennifer=1e-5, table=1e-4, hay=1e-5, junior=1e-4, juniper=1e-6)
    alike = confusable.confusable("hey juniper", "en")
    assert set(alike) >= {"jupiter", "jennifer"} and not {"table", "juniper"} & set(alike)


def test_forms_of_one_word_are_named_once(few_words, monkeypatch):
    words(monkeypatch, complete=1e-4, completed=9e-5, completing=1e-5, table=1e-3)
    assert len(confusable.confusable("computer", "en")) == 1


def test_the_commonest_words_are_known(few_words):
    assert {"the", "of"} <= {word for word, _, _ in confusable.common("en")}
    assert confusable.times_an_hour("computer", "en") == pytest.approx(0.84, abs=0.1)
    assert not confusable.has_words("cy") and confusable.times_an_hour("helo", "cy") == 0


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", "training.voices", *arguments]
    return subprocess.run(run, cwd=ROOT, capture_output=True, text=True)


def test_the_command(tmp_path):
    done = command("heol", "--language", "cy", "--listen", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("heol  /h")
    assert (tmp_path / "heol-espeak-ng.wav").stat().st_size > 8000


def test_a_mistake_is_one_line():
    done = command("xkcd")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("voices: error: 'xkcd'")
