import shutil

import numpy as np
import pytest

from training.data import recordings as data
from training.voices import synthesize

needs_voices = pytest.mark.skipif(
    not (shutil.which("espeak-ng") and shutil.which("flite") and synthesize.WORDS.exists()),
    reason=f"no voices: {synthesize.MISSING}",
)


def test_distance_to_the_nearest_part_of_a_word():
    assert synthesize.distance("hapi", "unhapili") == 0
    assert synthesize.distance("hapi", "napiz") == 0.5  # nappies: an h is hardly heard
    assert synthesize.distance("hapi", "kaputSinoU") == 1.0  # cappuccino: h for k, a vowel for a vowel
    assert synthesize.distance("hapi", "k0fi") == 1.5  # coffee: two labials
    assert synthesize.distance("hapi", "apt") == 1.5 and synthesize.distance("hapi", "sss") > 2
    assert synthesize.distance("abc", "") == 3


@needs_voices
def test_near_misses_sound_like_the_keyword_and_never_are_it(monkeypatch, tmp_path):
    few = tmp_path / "words"
    few.write_text("\n".join(["happy", "unhappy", "happier", "go", "hippie", "nappy", "elephant", "window", "X-ray"]))
    monkeypatch.setattr(synthesize, "WORDS", few)
    monkeypatch.setattr(synthesize, "ALIKE", 2)
    words, alike, common = synthesize.vocabulary(("happy", "go"))
    assert set(alike) == {"hippie", "nappy"} and words == ["hippie", "nappy", "elephant", "window"]
    assert "the" in common and not {"happy", "unhappy", "happier", "go"} & {*words, *alike, *common}
    said = " ".join(synthesize.sentence(words, alike, common, np.random.default_rng(i)) for i in range(50)).split()
    assert sum(word in alike for word in said) > 20 < sum(word in common for word in said)


@needs_voices
def test_utterances_are_speech_and_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(synthesize, "vocabulary", lambda _: (["seven", "cat"], ["happen"], ["the", "coffee"]))
    paths = synthesize.utterances(("happy",), 6, tmp_path)
    for path in paths:
        audio = data.to_float(data.read(path))
        assert len(audio) > 4000 and np.abs(audio).max() > 0.05
    monkeypatch.setattr(synthesize, "speak", lambda *_: pytest.fail("made again"))
    assert synthesize.utterances(("happy",), 6, tmp_path) == paths


def test_missing_voices_are_one_line_with_the_fix(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(data.DataError, match="apt-get install espeak-ng"):
        synthesize.utterances(("happy",), 1, tmp_path)
