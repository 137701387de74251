"""Every engine that is installed, for real; the others must say how to get them."""

import numpy as np
import pytest

from training.data.recordings import DataError
from training.voices import engines, espeak, festival, flite, pico, piper, rhvoice
from training.voices.voice import Manner, Speaker, matches

HERE = [engine for engine in engines.ENGINES.values() if engine is not piper and not engine.missing()]
PITCH = {espeak, flite, pico, rhvoice, festival}


@pytest.fixture(params=HERE, ids=lambda engine: engine.NAME)
def engine(request):
    return request.param


@pytest.fixture
def speaker(engine) -> Speaker:
    """One that does all that its engine can."""
    wanted = {flite.NAME: "awb", festival.NAME: "kal_diphone", espeak.NAME: "en-us+steph"}.get(engine.NAME)
    found = [one for one in engine.speakers("en", None) if wanted in (None, one.voice)]
    if not found:
        pytest.skip(f"{engine.NAME} has no {wanted}")
    return found[0]


def pitch(audio: np.ndarray, rate: int) -> float:
    """Median of the voiced parts, in Hz, by autocorrelation."""
    found = []
    for start in range(0, len(audio) - 2048, 512):
        part = audio[start : start + 2048] * np.hanning(2048)
        alike = np.fft.irfft(np.abs(np.fft.rfft(part, 4096)) ** 2)[: rate // 60]
        lag = rate // 400 + int(np.argmax(alike[rate // 400 :]))
        if alike[lag] > 0.5 * alike[0] > 1e-3 * len(part) * float(np.abs(audio).max()) ** 2:
            found.append(rate / lag)
    return float(np.median(found))


def test_it_says_a_word(engine, speaker):
    audio, rate = engine.speak("hey juniper", speaker, Manner())
    assert audio.dtype == np.float32 and audio.ndim == 1 and 8000 <= rate <= 48_000
    assert 0.5 < len(audio) / rate < 3 and 0.01 < np.abs(audio).max() <= 1


def test_rate_and_pitch_are_factors(engine, speaker):
    audio, rate = engine.speak("a banana in the rain", speaker, Manner())
    fast = engine.speak("a banana in the rain", speaker, Manner(rate=1.4))[0]
    assert len(fast) / len(audio) == pytest.approx(1 / 1.4, abs=0.12)
    high, low = (engine.speak("a banana in the rain", speaker, Manner(pitch=p))[0] for p in (1.25, 0.85))
    assert pitch(high, rate) / pitch(low, rate) == pytest.approx(1.25 / 0.85, abs=0.2)


def test_what_is_said_cannot_give_commands(engine, speaker):
    """Quotes, markup and options of a command line are text."""
    for text in ('hey" "juniper', "<b>hey</b> & juniper", "-w nowhere.wav", "(quit)"):
        audio, rate = engine.speak(text, speaker, Manner())
        assert len(audio) / rate > 0.3


def test_another_language_has_its_own_voices_or_none(engine):
    german = engine.speakers("de", None)
    assert not {one.voice for one in german} & {one.voice for one in engine.speakers("en", None)}
    assert not engine.speakers("xx", None)


def test_languages_match_their_accents():
    assert matches("en-us", "en") and matches("en_GB", "en-gb") and matches("de", "de")
    assert not matches("en", "en-us") and not matches("eno", "en")


def test_people_are_in_one_split_only():
    training, validation = engines.split(engines.known("en"))
    assert not {one.person for one in training} & {one.person for one in validation}
    assert {one.engine for one in training} >= {one.engine for one in validation}
    everybody = {one.person for one in training + validation}
    assert 0.1 < len({one.person for one in validation}) / len(everybody) < 0.3


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_few_people_are_split_too(n):
    some = [Speaker("x", f"{i}", f"person {i}") for i in range(n)]
    training, validation = engines.split(some)
    assert training and validation and (n == 1 or not set(training) & set(validation))


def test_one_person_has_one_name_in_all_engines():
    assert festival.person("cmu_us_slt_arctic_hts") == "slt" and festival.person("kal_diphone") == "kal"
    assert espeak.person("Steph3") == espeak.person("steph") and espeak.person("f3") != espeak.person("f2")


def test_voices_that_forbid_derivatives_are_left_out():
    if rhvoice.missing():
        pytest.skip(f"RHVoice is not installed: {rhvoice.INSTALL}")
    assert {one.voice for one in rhvoice.speakers("en", None)} <= {"alan", "bdl", "clb", "slt"}


def test_what_is_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert all(engine.missing() and not engine.speakers("en", None) for engine in engines.ENGINES.values())
    with pytest.raises(DataError, match="apt-get install espeak-ng; apt-get install flite; pip install ttspico"):
        engines.known("en")


def test_a_language_without_voices_is_named():
    with pytest.raises(DataError, match="no voice speaks 'xx'"):
        engines.known("xx")
