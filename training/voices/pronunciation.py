"""How the voices understand a word, by espeak-ng's phonemes; and whether it is one that a detector can be made of."""

import functools
import re
import subprocess
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from training.data.recordings import DataError
from training.voices import confusable, espeak

MOST_LETTERS = 40
FEW_PHONEMES, FEW_SYLLABLES = 5, 2  # what is shorter than both is heard everywhere
RESPELL = 'or say it otherwise: SAY="…"'
VOWELS = set("iyɨʉɯuɪʏʊeøɘɵɤoəɛœɜɞʌɔæɐaɶɑɒɚɝᵻ")
SYLLABIC = "\N{COMBINING VERTICAL LINE BELOW}"
# Languages that are not written in Latin letters, as Unicode names their scripts.
SCRIPTS = {
    "CYRILLIC": "ru uk be bg mk sr kk ky tt ba cv",
    "GREEK": "el grc",
    "ARABIC": "ar fa ur ug sd",
    "HEBREW": "he",
    "DEVANAGARI": "hi mr ne kok",
    "BENGALI": "bn as bpy",
    "GURMUKHI": "pa",
    "GUJARATI": "gu",
    "ORIYA": "or",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "SINHALA": "si",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy hyw",
    "ETHIOPIC": "am",
    "HANGUL": "ko",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "cmn yue hak ja",
    "MYANMAR": "my shn",
    "THAI": "th",
    "CHEROKEE": "chr",
}


@dataclass(frozen=True)
class Reading:
    """What espeak-ng makes of a text."""

    text: str
    ipa: str
    phonemes: int
    syllables: int


def read(text: str, language: str = "en") -> Reading:
    """Raises DataError for what cannot be a keyword, in one line that says what to do instead."""
    code = voice(language)
    check_letters(text, language)
    words = text.split()
    lines = transcribed([text, *words, *(" ".join(word) for word in words)], code)
    whole, each, spelt = lines[0], lines[1 : 1 + len(words)], lines[1 + len(words) :]
    for word, said, letters in zip(words, each, spelt, strict=True):
        if bare(said) == bare(letters):
            raise DataError(f"{text!r}: the voices spell {word!r} letter by letter: write it as it sounds, {RESPELL}")
    sounds = [sound for sound in re.split(r"[_\s]", whole) if bare(sound)]
    syllables = sum(bool(VOWELS & set(sound)) or SYLLABIC in sound for sound in sounds)
    if not syllables:
        raise DataError(f"{text!r}: has no vowel that the voices know: write it as it sounds, {RESPELL}")
    return Reading(text, whole.replace("_", ""), len(sounds), syllables)


def voice(language: str) -> str:
    """The accent that a language is read in. Raises DataError."""
    if espeak.missing():
        raise DataError(f"espeak-ng is not installed, which says how words sound: {espeak.INSTALL}")
    code = espeak.accent(language)
    if code is None:
        known = sorted({code.split("-")[0] for code in espeak.languages()})
        raise DataError(f"LANGUAGE={language}: espeak-ng has no such voice; known: {' '.join(known)}")
    return code


def check_letters(text: str, language: str) -> None:
    """Raises DataError where a text is not a few words in letters of its language."""
    letters = [c for c in text if unicodedata.category(c)[0] == "L"]
    if not text.strip():
        raise DataError('the word is empty: give one, as WORD="hey juniper"')
    odd = [c for c in text if unicodedata.category(c)[0] not in "LM" and c not in " '’-"]
    if odd:
        raise DataError(f"{text!r}: {odd[0]!r} is no letter: write the word as it is said, numbers as words")
    if len(letters) == 1 and script(letters[0]) not in ("CJK", "HANGUL"):
        raise DataError(f"{text!r}: one letter is said everywhere: take a word of two syllables or more")
    if len(letters) > MOST_LETTERS:
        raise DataError(f"{text[:20]!r}…: has {len(letters)} letters, {MOST_LETTERS} are the most: take a word or two")
    if not letters:
        raise DataError(f"{text!r}: there is nothing to say in it: write a word in letters")
    expected = {name for name, codes in SCRIPTS.items() if language.split("-")[0] in codes.split()} or {"LATIN"}
    for letter in letters:
        if (found := script(letter)) not in expected:
            codes = SCRIPTS.get(found, "en" if found == "LATIN" else "").split()
            known = [code for code in codes if espeak.accent(code)][:3]
            there = f"set LANGUAGE={' or '.join(known)}, or write" if known else "write"
            raise DataError(
                f"{text!r}: no voice for {language!r} reads {found.capitalize()} letters: {there} it as it sounds in "
                f"letters of {language!r}"
            )


def script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split()[0]


def transcribed(lines: list[str], code: str) -> list[str]:
    """Each line in the International Phonetic Alphabet, an underscore between phonemes."""
    command = ["espeak-ng", "-q", "--ipa", "--sep=_", "-v", code]
    said = [run_one(line, tuple(command)) for line in lines]
    return [re.sub(r"\([\w-]+\)", "", one) for one in said]  # marks where another language's rules are used


@functools.cache
def run_one(line: str, command: tuple[str, ...]) -> str:
    done = subprocess.run(command, input=line, capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split())


def bare(ipa: str) -> str:
    """Without stress, length and boundaries."""
    return re.sub(r"[\s_ˈˌːˑ]", "", ipa)


def warnings(reading: Reading, language: str = "en") -> list[str]:
    """What makes a word a poor keyword, a line each; none for a good one."""
    text, found = reading.text, []
    if reading.phonemes < FEW_PHONEMES or reading.syllables < FEW_SYLLABLES:
        found.append(
            f"{text!r} is short ({count(reading.phonemes, 'phoneme')}, {count(reading.syllables, 'syllable')}): expect "
            "false accepts; three syllables or more are better"
        )
    if reading.phonemes > 4 * reading.syllables:
        found.append(f"the voices hear hardly a vowel in {text!r}, /{reading.ipa}/: write its vowels, {RESPELL}")
    hourly = confusable.times_an_hour(text, language)
    if hourly >= 0.1:
        found.append(f"people say {text!r} in passing, about {hourly:.1g} times an hour of talk: each will be accepted")
    if confusable.is_everyday(text, language):
        found.append(f"{text!r} is made of everyday words, which people may say in passing: each will be accepted")
    parts = confusable.heard_in(text, language)
    if parts:
        found.append(f"{text!r} is heard within common words, which may be accepted: {', '.join(parts[:5])}")
    return found


def count(n: int, what: str) -> str:
    return f"{n} {what}" + ("s" if n != 1 else "")


def about(texts: Iterable[str], language: str = "en") -> list[str]:
    """All that is to be known of a word before its detector is made, as lines to print. Raises DataError."""
    lines = []
    for text in texts:
        reading = read(text, language)
        size = f"{count(reading.phonemes, 'phoneme')}, {count(reading.syllables, 'syllable')}"
        lines.append(f"{text}  /{reading.ipa}/  {size}")
        lines += [f"  warning: {warning}" for warning in warnings(reading, language)]
        alike = confusable.confusable(text, language)
        if alike:
            lines.append(f"  may be mistaken for it: {', '.join(alike)}")
        elif not confusable.has_words(language):
            lines.append(f"  no list of common words for {language!r}: what may be mistaken for it is not known")
    return lines
